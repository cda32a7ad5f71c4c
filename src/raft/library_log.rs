//! raft-rs writes its log through slog; here it becomes one function call, or nothing.

use std::fmt::{self, Write as _};

use slog::{Drain, KV, Level, Logger, OwnedKVList, Record, o};

/// How much a line of raft-rs matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
}

/// Takes one line. A plain function, so that the core owns no writer and stays `Send`.
pub type LogSink = fn(LogLevel, &str);

struct Forward {
    sink: LogSink,
    level_max: LogLevel,
}

impl Drain for Forward {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            Level::Critical | Level::Error => LogLevel::Error,
            Level::Warning => LogLevel::Warning,
            Level::Info => LogLevel::Info,
            Level::Debug | Level::Trace => LogLevel::Debug,
        };
        if level <= self.level_max {
            let mut line = Line(String::new());
            // Writing to a String cannot fail; a value whose own Display fails leaves a short line.
            if line.0.write_fmt(*record.msg()).is_ok() && record.kv().serialize(record, &mut line).is_ok() {
                drop(values.serialize(record, &mut line));
            }
            (self.sink)(level, &line.0);
        }
        Ok(())
    }
}

struct Line(String);

impl slog::Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key}: {value}")?;
        Ok(())
    }
}

/// Lines up to `level_max` go to `sink`; without a sink they are dropped unformatted.
pub(super) fn logger(sink: Option<(LogSink, LogLevel)>) -> Logger {
    match sink {
        Some((sink, level_max)) => Logger::root(Forward { sink, level_max }, o!()),
        None => Logger::root(slog::Discard, o!()),
    }
}

//! A line of the log that an operator reads: one an event, JSON like etcd's by default, or for people.
//!
//! JSON keys are etcd's: `level`, `ts` (RFC 3339, UTC, microseconds), `caller` (the source's file with its folder,
//! and line), `msg`, then the event's fields, so that what already parses etcd's log parses ours.

#![expect(unsafe_code, reason = "this host's time zone, which std does not know")]

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::outlet::LostLine;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Format {
    Json,
    Console,
}

/// Formats events.
pub(super) struct Lines(pub(super) Format);

/// Where `h2` speaks. It warns of what a client did without saying which: no operator can act on that, and
/// a client must not fill the log. What the member makes of it is told by the shard.
const H2: &str = "h2";

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() == Level::WARN && metadata.target().starts_with(H2) {
            return Ok(());
        }
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let mut fields = Fields { format: self.0, message: String::new(), rest: String::new() };
        event.record(&mut fields);
        let now = now();
        match self.0 {
            Format::Json => {
                let mut message = String::new();
                quote(&fields.message, &mut message);
                let mut caller = String::new();
                quote(&caller_of(metadata.file(), metadata.line()), &mut caller);
                let rest = fields.rest;
                writeln!(
                    writer,
                    r#"{{"level":"{level}","ts":"{now}","caller":{caller},"msg":{message}{rest}}}"#
                )
            }
            Format::Console => writeln!(writer, "{now} {level:<5} {}{}", fields.message, fields.rest),
        }
    }
}

struct Fields {
    format: Format,
    message: String,
    rest: String,
}

impl Fields {
    fn put(&mut self, name: &str, value: &str, is_bare: bool) {
        if name == "message" {
            self.message.push_str(value);
            return;
        }
        match self.format {
            Format::Json => {
                self.rest.push(',');
                quote(name, &mut self.rest);
                self.rest.push(':');
            }
            Format::Console => {
                self.rest.push(' ');
                self.rest.push_str(name);
                self.rest.push('=');
            }
        }
        if is_bare {
            self.rest.push_str(value);
        } else {
            quote(value, &mut self.rest);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), &format!("{value:?}"), false);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value, false);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), &value.to_string(), true);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), &value.to_string(), true);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), if value { "true" } else { "false" }, true);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // Nobody reads more digits of a measured time.
        let rounded = (value * 1e3).round() / 1e3;
        self.put(field.name(), &rounded.to_string(), value.is_finite());
    }
}

/// Appends `text` as a JSON string. Control characters are escaped, so a key's bytes in an error text
/// cannot forge a line.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' || c == '\u{7f}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes every write");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn now() -> String {
    timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros()))
}

/// The source of a line: its file, with the last folder, and its line.
fn caller_of(file: Option<&str>, line: Option<u32>) -> String {
    let (file, line) = (file.unwrap_or("?"), line.unwrap_or(0));
    let mut slashes = file.rmatch_indices('/').map(|(at, _)| at + 1);
    let short = &file[slashes.nth(1).unwrap_or(0)..];
    format!("{short}:{line}")
}

/// How many seconds this host's time is ahead of UTC.
pub(super) fn local_offset_s(seconds: u64) -> i64 {
    let seconds = libc::time_t::try_from(seconds).unwrap_or(0);
    let mut broken_down = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to values that live until the call returns, and zeros are a valid `tm`.
    unsafe {
        libc::localtime_r(&raw const seconds, broken_down.as_mut_ptr());
        broken_down.assume_init().tm_gmtoff
    }
}

/// RFC 3339 in UTC from microseconds since 1970.
pub(super) fn timestamp(micros: u128) -> String {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that the leap day is the last of its year; 400 years repeat.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", micros % 1_000_000)
}

/// The line that says how many are missing.
pub(super) fn lost_line(format: Format) -> LostLine {
    const TEXT: &str = "lines of this log were lost: its disk or its reader did not take them";
    match format {
        Format::Json => |lost| {
            format!("{{\"level\":\"warn\",\"ts\":\"{}\",\"msg\":\"{TEXT}\",\"lost\":{lost}}}\n", now()).into()
        },
        Format::Console => |lost| format!("{} warn  {TEXT} lost={lost}\n", now()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_a_file_with_its_folder_as_in_etcd() {
        assert_eq!(caller_of(Some("src/shell/store/mod.rs"), Some(12)), "store/mod.rs:12");
        assert_eq!(caller_of(Some("src/main.rs"), Some(1)), "src/main.rs:1");
        assert_eq!(caller_of(Some("main.rs"), None), "main.rs:0");
        assert_eq!(caller_of(None, None), "?:0");
    }

    #[test]
    fn timestamps_are_rfc_3339_across_leap_days() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(951_782_400_000_001), "2000-02-29T00:00:00.000001Z");
        assert_eq!(timestamp(1_795_219_199_999_999), "2026-11-20T23:59:59.999999Z");
    }

    #[test]
    fn lost_lines_are_told_in_the_logs_own_format() {
        let text = |format| String::from_utf8(lost_line(format)(7)).unwrap();
        let json = text(Format::Json);
        assert!(
            json.starts_with("{\"level\":\"warn\",\"ts\":\"2") && json.ends_with(",\"lost\":7}\n"),
            "{json}"
        );
        assert!(text(Format::Console).ends_with(" lost=7\n"));
    }

    #[test]
    fn a_line_break_in_a_value_cannot_forge_a_line() {
        let mut out = String::new();
        quote("a\n{\"level\"\u{1}", &mut out);
        assert_eq!(out, "\"a\\n{\\\"level\\\"\\u0001\"");
    }
}

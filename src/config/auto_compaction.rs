//! `--auto-compaction-mode` and `--auto-compaction-retention`: how much history is kept without being asked.
//!
//! Syntax is etcd's: a plain decimal number is hours or revisions, by the mode; anything else is a duration, also
//! where revisions are counted, and then of as many revisions as it has nanoseconds.

use std::time::Duration;

use super::parse::{Refused, Settings};
use super::value;

const MODE: &str = "auto-compaction-mode";
const RETENTION: &str = "auto-compaction-retention";

/// The history that stays readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// That of so much time, at least a nanosecond.
    Periodic(Duration),
    /// So many revisions, at least one.
    Revision(i64),
}

/// What `--auto-compaction-mode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Periodic,
    Revision,
}

impl AutoCompaction {
    /// None: nothing is compacted without being asked.
    pub(super) fn read(settings: &Settings) -> Result<Option<Self>, Refused> {
        let mode = mode(settings)?;
        let text = match settings.text(RETENTION) {
            "" => "0",
            text => text,
        };
        let retention_ns = match (plain_number(text), mode) {
            (Some(number), Mode::Revision) => Some(number),
            (Some(hours), Mode::Periodic) => hours.checked_mul(3_600_000_000_000),
            (None, _) => {
                let duration = value::parse_duration(text);
                let duration = duration.map_err(|reason| settings.invalid(RETENTION, &reason))?;
                i64::try_from(duration.as_nanos()).ok()
            }
        };
        let too_long = || settings.invalid(RETENTION, "at most 292 years");
        let retention = retention_ns.ok_or_else(too_long)?;
        Ok(match mode {
            _ if retention == 0 => None,
            Mode::Periodic => Some(Self::Periodic(Duration::from_nanos(retention.unsigned_abs()))),
            Mode::Revision => Some(Self::Revision(retention)),
        })
    }

    /// What is taken as etcd takes it, and most likely not what was meant.
    pub(super) fn remark(settings: &Settings) -> Result<Option<String>, Refused> {
        let text = settings.text(RETENTION);
        Ok(match Self::read(settings)? {
            Some(Self::Revision(revisions)) if plain_number(text).is_none() => Some(format!(
                "{}={text} is a duration, and {} counts revisions: {revisions} of them are kept",
                settings.source(RETENTION),
                settings.source(MODE),
            )),
            _ => None,
        })
    }
}

fn mode(settings: &Settings) -> Result<Mode, Refused> {
    settings.word(MODE, &[("periodic", Mode::Periodic), ("revision", Mode::Revision)])
}

/// Go's `strconv.Atoi`, but for negative numbers, which etcd reads as durations.
fn plain_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

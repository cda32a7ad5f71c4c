//! Ends of the process that are no orderly stop: their codes, and how an error is told in one line.

/// Exit code when a committed entry cannot be applied (`EX_SOFTWARE` of sysexits).
pub(in crate::shell) const EXIT_STATE_UNKNOWN: i32 = 70;

/// Exit code when a checkpoint is of a format level that this member may not read: it is the same reason, found
/// before anything is applied.
pub(in crate::shell) const EXIT_FORMAT_LEVEL: u8 = 70;

/// Exit code when the log lacks what this member once acknowledged to its leader (`EX_DATAERR`).
pub(in crate::shell) const EXIT_LOG_LOST: i32 = 65;

/// Exit code when this member's data differs from that of the others (`EX_DATAERR`, too).
pub(in crate::shell) const EXIT_DATA_DIFFERS: u8 = 65;

/// Exit code after a failed append or sync (`EX_IOERR` of sysexits).
pub(in crate::shell) const EXIT_LOG_FAILED: i32 = 74;

/// An error and what caused it, without saying twice what a text already contains.
pub(in crate::shell) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_cause_once() {
        let io = || std::io::Error::from_raw_os_error(libc::EIO);
        let bare = pinion_wal::WalError::Io { operation: "syncing the log", source: io() };
        assert_eq!(with_causes(&bare), format!("syncing the log failed: {}", io()));
        let told = crate::shell::boot::BootError::Thread { what: "the log writer", source: io() };
        assert_eq!(with_causes(&told), told.to_string());
    }
}

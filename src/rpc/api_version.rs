//! `client-api-version`: the version of etcd's API that a client speaks, as it says in its metadata.
//!
//! Compatibility: etcd's Go client sends major and minor number since 3.5; the text counts, however often
//! it is sent, where it is sent first.

use super::status;
use super::{Code, Status};

/// What the server goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiVersion {
    /// At least 3.6.
    Recent,
    /// Before 3.6, or nothing that can be read as a version, or nothing at all.
    Old,
    /// Not even UTF-8.
    Malformed,
}

impl ApiVersion {
    /// Reads the value of the metadata.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let Ok(text) = str::from_utf8(value) else { return Self::Malformed };
        let mut numbers = text.split('.').map(|number| {
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| number.parse::<u32>().ok()).flatten()
        });
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) if (3, 6) <= (major, minor) => Self::Recent,
            _ => Self::Old,
        }
    }

    /// The answer of a learner to what it does not serve. Clients before 3.6 go on to their next endpoint
    /// for Unavailable only, which is what a server before 3.6 answers; later ones know the code that is
    /// meant.
    #[must_use]
    pub fn refusal_of_learner(self) -> Status {
        match self {
            Self::Recent => status::NOT_SUPPORTED_FOR_LEARNER,
            Self::Old | Self::Malformed => {
                Status { code: Code::Unavailable, ..status::NOT_SUPPORTED_FOR_LEARNER }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_readable_version_from_3_6_on_is_recent() {
        for recent in ["3.6", "3.7", "3.10", "3.6.0", "3.6.0-rc.1", "4.0", "10.0"] {
            assert_eq!(ApiVersion::parse(recent.as_bytes()), ApiVersion::Recent, "{recent}");
        }
        let old = [
            "", "3.5", "3.5.30", "2.9", "3", "4", "3.", "3.x", "v3.6", "+3.6", "3.+6", " 3.6", "3.6x",
            "unknown",
        ];
        for old in old {
            assert_eq!(ApiVersion::parse(old.as_bytes()), ApiVersion::Old, "{old}");
        }
        assert_eq!(ApiVersion::parse(b"3.99999999999"), ApiVersion::Old, "no number of ours");
        assert_eq!(ApiVersion::parse(b"3.6\xff"), ApiVersion::Malformed);
    }

    #[test]
    fn old_clients_hear_unavailable_from_a_learner_and_recent_ones_failed_precondition() {
        let text = "etcdserver: rpc not supported for learner";
        for (version, code) in [
            (ApiVersion::Recent, Code::FailedPrecondition),
            (ApiVersion::Old, Code::Unavailable),
            (ApiVersion::Malformed, Code::Unavailable),
        ] {
            let refusal = version.refusal_of_learner();
            assert_eq!((refusal.code, &*refusal.message), (code, text));
        }
    }
}

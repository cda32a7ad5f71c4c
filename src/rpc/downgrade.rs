//! `Maintenance.Downgrade`: what a cluster of one version says to it.
//!
//! etcd lets operators go back one minor version: VALIDATE asks whether that could begin, ENABLE begins it, and CANCEL
//! ends it. Members of Pinion follow one version of etcd's API, and a release of Pinion goes back by format levels
//! (`types::format`), so no downgrade ever begins: VALIDATE and CANCEL are answered as etcd answers where none is under
//! way, and ENABLE, once it is valid, is refused with what to do instead.

use std::borrow::Cow;

use super::status::{self, Code, Status};
use crate::config::ETCD_API_VERSION;
use crate::pb::etcdserverpb::DowngradeRequest;
use crate::pb::etcdserverpb::downgrade_request::DowngradeAction;

/// Whether the request is one that the cluster's version answers.
///
/// # Errors
/// etcd's reason why not, or that nothing is downgraded here.
pub(super) fn check(request: &DowngradeRequest) -> Result<(), Status> {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => check_target(&request.version),
        Ok(DowngradeAction::Enable) => {
            check_target(&request.version)?;
            Err(Status {
                code: Code::Unimplemented,
                message: Cow::Borrowed(
                    "pinion: members have one version of etcd's API, and none is downgraded; to go back a release of \
                     Pinion keep the cluster at its format level (--format-level-max)",
                ),
            })
        }
        Ok(DowngradeAction::Cancel) => Ok(()),
        Err(_) => Err(status::UNKNOWN_DOWNGRADE_ACTION),
    }
}

/// The only target is the minor version before the cluster's.
fn check_target(version: &str) -> Result<(), Status> {
    let (major, minor) = minor_of(version).ok_or(status::WRONG_DOWNGRADE_VERSION_FORMAT)?;
    let (own_major, own_minor) = minor_of(ETCD_API_VERSION).expect("our own is one");
    if major == own_major && own_minor.checked_sub(1) == Some(minor) {
        Ok(())
    } else {
        Err(status::INVALID_DOWNGRADE_TARGET_VERSION)
    }
}

/// Major and minor of `X.Y` or of a semantic version, `X.Y.Z` with perhaps `-pre` and `+meta` behind it.
fn minor_of(version: &str) -> Option<(u64, u64)> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    let core = version.split(['-', '+']).next()?;
    let mut parts = core.split('.');
    let (major, minor) = (number(parts.next()?)?, number(parts.next()?)?);
    let patch = parts.next();
    let is_whole = match patch {
        None => core.len() == version.len(),
        Some(patch) => number(patch).is_some() && parts.next().is_none(),
    };
    is_whole.then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(action: i32, version: &str) -> Result<(), Status> {
        check(&DowngradeRequest { action, version: version.to_owned() })
    }

    #[test]
    fn targets_are_judged_as_etcd_judges_them_and_nothing_is_enabled() {
        for action in [0, 1] {
            for version in [
                "",
                "3",
                "3.x",
                "v3.6",
                "3.6.",
                "3.6.0.0",
                "3.6-rc",
                " 3.6",
                "3.-6.0",
                "99999999999999999999.1",
            ] {
                assert_eq!(ask(action, version), Err(status::WRONG_DOWNGRADE_VERSION_FORMAT), "{version:?}");
            }
            for version in ["3.7", "3.8.0", "3.5", "2.6", "4.6.0", "0.0.0"] {
                assert_eq!(
                    ask(action, version),
                    Err(status::INVALID_DOWNGRADE_TARGET_VERSION),
                    "{version:?}"
                );
            }
        }
        for version in ["3.6", "3.6.0", "3.6.9", "3.6.0-rc.1", "3.6.0+meta"] {
            assert_eq!(ask(0, version), Ok(()), "{version}");
            let refused = ask(1, version).unwrap_err();
            assert_eq!(refused.code, Code::Unimplemented);
            assert!(refused.message.contains("--format-level-max"), "{refused:?}");
        }
        assert_eq!(ask(2, "whatever"), Ok(()), "nothing is under way");
        assert_eq!(ask(3, "3.6"), Err(status::UNKNOWN_DOWNGRADE_ACTION));
    }
}

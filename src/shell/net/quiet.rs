//! Lines of the log that somebody else could repeat at will: each cause once in a while.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two lines of one cause.
const INTERVAL: Duration = Duration::from_secs(10);

/// Causes that are told apart; strangers may not grow the table beyond it.
const CAUSES_MAX: usize = 256;

/// When which cause was last told, and how often it was not.
#[derive(Debug)]
pub(in crate::shell) struct Quiet<K> {
    told: RefCell<BTreeMap<K, (Instant, u64)>>,
}

impl<K> Default for Quiet<K> {
    fn default() -> Self {
        Self { told: RefCell::default() }
    }
}

impl<K: Ord> Quiet<K> {
    /// Whether to log now; then with how many lines were left out since the last.
    pub(in crate::shell) fn ask(&self, cause: K, now: Instant) -> Option<u64> {
        let mut told = self.told.borrow_mut();
        if CAUSES_MAX <= told.len() {
            told.retain(|_cause, (at, _)| now.duration_since(*at) < INTERVAL);
        }
        if let Some((at, left_out)) = told.get_mut(&cause) {
            if now.duration_since(*at) < INTERVAL {
                *left_out += 1;
                return None;
            }
            *at = now;
            return Some(std::mem::take(left_out));
        }
        if told.len() < CAUSES_MAX {
            told.insert(cause, (now, 0));
            return Some(0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_cause_is_told_once_an_interval_with_its_count() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.ask("garbage", start), Some(0));
        assert_eq!(quiet.ask("garbage", start), None);
        assert_eq!(quiet.ask("garbage", start + INTERVAL / 2), None);
        assert_eq!(quiet.ask("other", start), Some(0));
        assert_eq!(quiet.ask("garbage", start + INTERVAL), Some(2));
    }

    #[test]
    fn strangers_do_not_grow_the_table() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        let told = (0..1000).filter(|cause| quiet.ask(*cause, start).is_some()).count();
        assert_eq!(told, CAUSES_MAX);
        assert!(quiet.ask(2000, start + INTERVAL).is_some(), "old causes make room");
    }
}

//! Passwords: bcrypt on threads of its own, a few at a time, fairly (`fair_threads`).
//!
//! A password takes a tenth of a second of a core on purpose, so guessing is slow and logging in would hold up an
//! executor.
//!
//! A password is dropped with its job, and is in no log line. An unknown user costs as much time as a wrong
//! password.

use super::fair_threads::{Asker, Crowded, FairThreads, Rank, Waiting};
use super::helpers::Helpers;

/// Each takes a tenth of a second of one of two threads, so that half a minute is the longest wait.
const WAITING: Waiting = Waiting { max: 512, of_asker_max: 16 };

/// What bcrypt takes of a password; more is refused when one is set.
pub(in crate::shell) const PASSWORD_BYTES_MAX: usize = 72;

/// See the module. Clones share the threads, which begin with the first job.
#[derive(Clone)]
pub(in crate::shell) struct Passwords {
    cost: u32,
    threads: FairThreads,
}

impl Default for Passwords {
    /// For a shard on its own, in a test.
    fn default() -> Self {
        Self { cost: bcrypt::DEFAULT_COST, threads: FairThreads::new("passwords", Rank::Last, WAITING, None) }
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("cost", &self.cost).finish_non_exhaustive()
    }
}

impl Passwords {
    /// Hashes at this cost (`--bcrypt-cost`).
    pub(in crate::shell) fn new(cost: u32, helpers: Helpers) -> Self {
        Self { cost, threads: FairThreads::new("passwords", Rank::Last, WAITING, Some(helpers)) }
    }

    /// Whether a password of this asker would be looked at.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) fn check_room(&self, asker: &Asker) -> Result<(), Crowded> {
        self.threads.check_room(asker)
    }

    /// bcrypt's text for a password. `None` when it is too long.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) async fn hash(
        &self,
        asker: Asker,
        password: String,
    ) -> Result<Option<String>, Crowded> {
        if PASSWORD_BYTES_MAX < password.len() {
            return Ok(None);
        }
        let cost = self.cost;
        self.threads.run(asker, move || bcrypt::hash(password, cost).ok()).await
    }

    /// Whether a password fits a hash. Without one none does, and finding that out takes as long.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) async fn fits(
        &self,
        asker: Asker,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Crowded> {
        Ok(self.if_fits(asker, password, hash, || ()).await?.is_some())
    }

    /// What `then` comes to, on the same thread, if a password fits a hash.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) async fn if_fits<T: Send + 'static>(
        &self,
        asker: Asker,
        password: String,
        hash: Option<String>,
        then: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, Crowded> {
        let cost = self.cost;
        let work = move || match hash {
            Some(hash) => bcrypt::verify(password, &hash).unwrap_or(false).then(then),
            None => {
                // Only the time counts.
                drop(bcrypt::hash(password, cost));
                None
            }
        };
        self.threads.run(asker, work).await
    }
}

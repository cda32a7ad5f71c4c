//! Passwords: bcrypt on threads of its own, a few at a time, fairly.
//!
//! A password takes a tenth of a second of a core on purpose, so guessing is slow and logging in would hold up an
//! executor. Two threads of lowered priority take jobs from one bounded queue, in turns between the addresses that
//! ask and, for each address, between the users it names: a thousand wrong logins of one do not shut out the right
//! one of another.
//!
//! A password is dropped with its job, and is in no log line. An unknown user costs as much time as a wrong
//! password.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use super::helpers::Helpers;

/// Threads at work: on two, one slow address leaves the other half.
const THREADS: usize = 2;

/// Jobs that wait, of all and of one user from one address.
const WAITING_MAX: usize = 512;
const WAITING_OF_USER_MAX: usize = 16;

/// What bcrypt takes of a password; more is refused when one is set.
pub(in crate::shell) const PASSWORD_BYTES_MAX: usize = 72;

type Job = Box<dyn FnOnce() + Send>;

/// Whose job it is: an address, unknown for sockets without one, and a user's name.
type Asker = (Option<IpAddr>, String);

/// Jobs of an address by their users.
type Users = VecDeque<(String, VecDeque<Job>)>;

/// Jobs in the order in which they are taken. In turns between addresses, and between the users of one.
#[derive(Default)]
struct Queue {
    addresses: VecDeque<(Option<IpAddr>, Users)>,
    count: usize,
}

impl Queue {
    fn push(&mut self, (address, user): Asker, job: Job) -> Result<(), Crowded> {
        if WAITING_MAX <= self.count {
            return Err(Crowded);
        }
        let users = match self.addresses.iter_mut().find(|(known, _)| *known == address) {
            Some((_, users)) => users,
            None => {
                self.addresses.push_back((address, VecDeque::new()));
                &mut self.addresses.back_mut().expect("it was put there above").1
            }
        };
        match users.iter_mut().find(|(known, _)| *known == user) {
            Some((_, jobs)) if WAITING_OF_USER_MAX <= jobs.len() => return Err(Crowded),
            Some((_, jobs)) => jobs.push_back(job),
            None => users.push_back((user, VecDeque::from([job]))),
        }
        self.count += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Job> {
        let (address, mut users) = self.addresses.pop_front()?;
        let (user, mut jobs) = users.pop_front().expect("an address without jobs is not kept");
        let job = jobs.pop_front().expect("a user without jobs is not kept");
        if !jobs.is_empty() {
            users.push_back((user, jobs));
        }
        if !users.is_empty() {
            self.addresses.push_back((address, users));
        }
        self.count -= 1;
        Some(job)
    }
}

/// There are too many jobs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) struct Crowded;

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    has_job: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let job = {
                let mut queue = self.queue();
                loop {
                    match queue.pop() {
                        Some(job) => break job,
                        None => {
                            queue = self.has_job.wait(queue).unwrap_or_else(PoisonError::into_inner);
                        }
                    }
                }
            };
            job();
        }
    }
}

/// See the module. Clones share the threads, which begin with the first job.
#[derive(Clone, Default)]
pub(in crate::shell) struct Passwords {
    cost: Option<u32>,
    helpers: Option<Helpers>,
    shared: Arc<OnceLock<Arc<Shared>>>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// An answer between a thread and an executor.
struct Slot<T> {
    answer: OnceLock<T>,
    waker: AtomicWaker,
}

impl Passwords {
    /// Hashes at this cost (`--bcrypt-cost`).
    pub(in crate::shell) fn new(cost: u32, helpers: Helpers) -> Self {
        Self { cost: Some(cost), helpers: Some(helpers), ..Self::default() }
    }

    fn cost(&self) -> u32 {
        self.cost.unwrap_or(bcrypt::DEFAULT_COST)
    }

    fn shared(&self) -> &Shared {
        self.shared.get_or_init(|| {
            let shared = Arc::<Shared>::default();
            for _ in 0..THREADS {
                let own = Arc::clone(&shared);
                match &self.helpers {
                    Some(helpers) => helpers.run_in_background("passwords", move || own.work()),
                    // A shard on its own, in a test.
                    None => drop(std::thread::spawn(move || own.work())),
                }
            }
            shared
        })
    }

    async fn run<T: Clone + Send + Sync + 'static>(
        &self,
        asker: Asker,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Crowded> {
        let slot = Arc::new(Slot { answer: OnceLock::new(), waker: AtomicWaker::new() });
        let given = Arc::clone(&slot);
        let shared = self.shared();
        shared.queue().push(
            asker,
            Box::new(move || {
                // Nobody waits any more when the call has ended; then the time is better spent.
                if 1 < Arc::strong_count(&given) {
                    let answer = work();
                    assert!(given.answer.set(answer).is_ok(), "a job runs once");
                    given.waker.wake();
                }
            }),
        )?;
        shared.has_job.notify_one();
        let answer = poll_fn(|cx| {
            slot.waker.register(cx.waker());
            slot.answer.get().cloned().map_or(Poll::Pending, Poll::Ready)
        });
        Ok(answer.await)
    }

    /// bcrypt's text for a password. `None` when it is too long.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) async fn hash(
        &self,
        asker: (Option<IpAddr>, String),
        password: String,
    ) -> Result<Option<String>, Crowded> {
        if PASSWORD_BYTES_MAX < password.len() {
            return Ok(None);
        }
        let cost = self.cost();
        self.run(asker, move || bcrypt::hash(password, cost).ok()).await
    }

    /// Whether a password fits a hash. Without one none does, and finding that out takes as long.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) async fn fits(
        &self,
        asker: (Option<IpAddr>, String),
        password: String,
        hash: Option<String>,
    ) -> Result<bool, Crowded> {
        let cost = self.cost();
        let work = move || match hash {
            Some(hash) => bcrypt::verify(password, &hash).unwrap_or(false),
            None => {
                // Only the time counts.
                drop(bcrypt::hash(password, cost));
                false
            }
        };
        self.run(asker, work).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(127, 0, 0, last).into())
    }

    #[test]
    fn jobs_are_taken_in_turns_between_addresses_and_between_their_users() {
        let mut queue = Queue::default();
        let told = Arc::<Mutex<Vec<&'static str>>>::default();
        let mut push = |address, user: &str, name| {
            let told = Arc::clone(&told);
            let job = Box::new(move || told.lock().unwrap().push(name));
            queue.push((address, user.to_owned()), job)
        };
        for _ in 0..WAITING_OF_USER_MAX {
            push(address(1), "eve", "eve").unwrap();
        }
        assert_eq!(push(address(1), "eve", "eve"), Err(Crowded), "one user of one address has a bound");
        push(address(1), "bob", "bob").unwrap();
        push(address(2), "eve", "other eve").unwrap();
        push(address(2), "eve", "other eve").unwrap();
        for _ in 0..5 {
            queue.pop().unwrap()();
        }
        assert_eq!(*told.lock().unwrap(), ["eve", "other eve", "bob", "other eve", "eve"]);
        while queue.pop().is_some() {}
        assert_eq!((queue.count, queue.addresses.len()), (0, 0));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::default();
        let mut push = |user: usize| queue.push((None, user.to_string()), Box::new(|| {}));
        for user in 0..WAITING_MAX {
            push(user).unwrap();
        }
        assert_eq!(push(WAITING_MAX), Err(Crowded));
    }
}

//! Threads of lowered priority that take jobs fairly from one bounded queue: in turns between the addresses that ask,
//! and for each address between the users it names. So a thousand jobs of one do not shut out the first of another.
//!
//! For work that is too long for an executor and that whoever reaches a port can cause: passwords, signatures, the text of a
//! scrape.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use super::helpers::Helpers;

/// Threads at work: on two, one slow address leaves the other half.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Whose job it is: an address, unknown for sockets without one, and a user's name.
pub(in crate::shell) type Asker = (Option<IpAddr>, String);

/// Jobs of an address by their users.
type Users = VecDeque<(String, VecDeque<Job>)>;

/// There are too many jobs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) struct Crowded;

/// How the threads stand beside all others of their cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Rank {
    /// They give way.
    Background,
    /// Nobody is to feel them.
    Last,
}

/// How many jobs may wait.
#[derive(Debug, Clone, Copy)]
pub(in crate::shell) struct Waiting {
    pub(in crate::shell) max: usize,
    /// Of one user from one address.
    pub(in crate::shell) of_asker_max: usize,
}

/// Jobs in the order in which they are taken.
struct Queue {
    addresses: VecDeque<(Option<IpAddr>, Users)>,
    count: usize,
    waiting: Waiting,
}

impl Queue {
    fn new(waiting: Waiting) -> Self {
        Self { addresses: VecDeque::new(), count: 0, waiting }
    }

    /// Whether there is room for one more job of this asker.
    fn check_room(&self, (address, user): &Asker) -> Result<(), Crowded> {
        if self.waiting.max <= self.count {
            return Err(Crowded);
        }
        let users = self.addresses.iter().find(|(known, _)| known == address).map(|(_, users)| users);
        let jobs = users.and_then(|users| users.iter().find(|(known, _)| known == user));
        match jobs {
            Some((_, jobs)) if self.waiting.of_asker_max <= jobs.len() => Err(Crowded),
            _ => Ok(()),
        }
    }

    fn push(&mut self, asker: Asker, job: Job) -> Result<(), Crowded> {
        self.check_room(&asker)?;
        let (address, user) = asker;
        let users = match self.addresses.iter_mut().find(|(known, _)| *known == address) {
            Some((_, users)) => users,
            None => {
                self.addresses.push_back((address, VecDeque::new()));
                &mut self.addresses.back_mut().expect("it was put there above").1
            }
        };
        match users.iter_mut().find(|(known, _)| *known == user) {
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
#[derive(Clone)]
pub(in crate::shell) struct FairThreads {
    name: &'static str,
    rank: Rank,
    waiting: Waiting,
    /// None: a shard on its own, in a test.
    helpers: Option<Helpers>,
    shared: Arc<OnceLock<Arc<Shared>>>,
}

/// An answer between a thread and an executor.
struct Slot<T> {
    answer: Mutex<Option<T>>,
    waker: AtomicWaker,
}

impl<T> Slot<T> {
    fn answer(&self) -> MutexGuard<'_, Option<T>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FairThreads {
    pub(in crate::shell) fn new(
        name: &'static str,
        rank: Rank,
        waiting: Waiting,
        helpers: Option<Helpers>,
    ) -> Self {
        Self { name, rank, waiting, helpers, shared: Arc::default() }
    }

    fn shared(&self) -> &Shared {
        self.shared.get_or_init(|| {
            let queue = Mutex::new(Queue::new(self.waiting));
            let shared = Arc::new(Shared { queue, has_job: Condvar::new() });
            for _ in 0..THREADS {
                let own = Arc::clone(&shared);
                match &self.helpers {
                    Some(helpers) => match self.rank {
                        Rank::Background => helpers.run_in_background(self.name, move || own.work()),
                        Rank::Last => helpers.run_at_last(self.name, move || own.work()),
                    },
                    None => drop(std::thread::spawn(move || own.work())),
                }
            }
            shared
        })
    }

    /// Whether a job of this asker would be taken now: what has to be done before can be left undone if not.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) fn check_room(&self, asker: &Asker) -> Result<(), Crowded> {
        self.shared().queue().check_room(asker)
    }

    /// What `work` comes to on a thread.
    ///
    /// # Errors
    /// Too many wait already.
    pub(in crate::shell) async fn run<T: Send + 'static>(
        &self,
        asker: Asker,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Crowded> {
        let slot = Arc::new(Slot { answer: Mutex::new(None), waker: AtomicWaker::new() });
        let given = Arc::clone(&slot);
        let shared = self.shared();
        shared.queue().push(
            asker,
            Box::new(move || {
                // Nobody waits any more when the call has ended; then the time is better spent.
                if 1 < Arc::strong_count(&given) {
                    let answer = work();
                    given.answer().replace(answer);
                    given.waker.wake();
                }
            }),
        )?;
        shared.has_job.notify_one();
        let answer = poll_fn(|cx| {
            slot.waker.register(cx.waker());
            slot.answer().take().map_or(Poll::Pending, Poll::Ready)
        });
        Ok(answer.await)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const FEW: Waiting = Waiting { max: 64, of_asker_max: 16 };

    fn address(last: u8) -> Option<IpAddr> {
        Some(Ipv4Addr::new(127, 0, 0, last).into())
    }

    #[test]
    fn jobs_are_taken_in_turns_between_addresses_and_between_their_users() {
        let mut queue = Queue::new(FEW);
        let told = Arc::<Mutex<Vec<&'static str>>>::default();
        let mut push = |address, user: &str, name| {
            let told = Arc::clone(&told);
            let job = Box::new(move || told.lock().unwrap().push(name));
            queue.push((address, user.to_owned()), job)
        };
        for _ in 0..FEW.of_asker_max {
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
        let mut queue = Queue::new(FEW);
        let mut push = |user: usize| queue.push((None, user.to_string()), Box::new(|| {}));
        for user in 0..FEW.max {
            push(user).unwrap();
        }
        assert_eq!(push(FEW.max), Err(Crowded));
    }

    #[test]
    fn room_is_told_before_a_job_is_there_as_it_is_when_it_comes() {
        let mut queue = Queue::new(FEW);
        let (eve, bob) = ((address(1), "eve".to_owned()), (address(1), "bob".to_owned()));
        for _ in 0..FEW.of_asker_max {
            assert_eq!(queue.check_room(&eve), Ok(()));
            queue.push(eve.clone(), Box::new(|| {})).unwrap();
        }
        assert_eq!((queue.check_room(&eve), queue.check_room(&bob)), (Err(Crowded), Ok(())));
        drop(queue.pop());
        assert_eq!(queue.check_room(&eve), Ok(()));
        for user in 0..=FEW.max - FEW.of_asker_max {
            queue.push((None, user.to_string()), Box::new(|| {})).unwrap();
        }
        assert_eq!((queue.check_room(&eve), queue.check_room(&bob)), (Err(Crowded), Err(Crowded)));
    }
}

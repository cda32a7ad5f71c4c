//! Scrapes: one question to every role, and what comes back in time.
//!
//! A role counts for itself and is asked over a ring of its own, so nothing is shared between cores but the
//! question. A role that is busy answers behind its turn; one that does not answer by the deadline is told as
//! absent, and its series are missing rather than zero.
//!
//! The text is written on threads that give way to everything else: an executor's own helpers have its priority.
//!
//! Bounds: `SCRAPES_MAX` questions wait at a role; whoever asks more often finds it absent. `TEXTS` wait to be written.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use futures_lite::future;
use futures_util::task::AtomicWaker;

use super::fair_threads::{Crowded, FairThreads, Rank, Waiting};
use super::helpers::Helpers;
use crate::metrics::Report;

/// Questions that may wait at one role.
pub(in crate::shell) const SCRAPES_MAX: usize = 4;

/// Texts that may wait to be written. Each is a third of a megabyte once it is.
const TEXTS: Waiting = Waiting { max: 16, of_asker_max: 16 };

/// How long a role may take: Prometheus gives a scrape 10 s by default.
pub(in crate::shell) const SCRAPE_PATIENCE: Duration = Duration::from_secs(2);

/// Nanoseconds since any fixed moment, the same for all threads.
pub(in crate::shell) fn now_ns() -> u64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    let elapsed = BEGINNING.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).expect("no process lives for 500 years")
}

#[derive(Debug, Default)]
struct Gathering {
    answers: SegQueue<(usize, Report)>,
    waker: AtomicWaker,
}

/// The question to one role.
#[derive(Debug)]
pub(in crate::shell) struct Scrape {
    gathering: Arc<Gathering>,
    role: usize,
    is_brief: bool,
}

impl Scrape {
    /// What the answer begins with.
    pub(in crate::shell) fn begin(&self) -> Report {
        if self.is_brief { Report::brief() } else { Report::default() }
    }

    /// Gives the answer. Whoever asked may have gone.
    pub(in crate::shell) fn answer(self, report: Report) {
        self.gathering.answers.push((self.role, report));
        self.gathering.waker.wake();
    }
}

/// How a role is asked. False: it has too many questions already.
type Ask = Box<dyn Fn(Scrape) -> bool + Send + Sync>;

/// The ways to all roles.
#[derive(Default)]
pub(in crate::shell) struct Scraper {
    roles: Vec<(String, Ask)>,
    /// None: a shard on its own, in a test.
    writers: Option<FairThreads>,
}

impl std::fmt::Debug for Scraper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.roles.iter().map(|(role, _)| role)).finish()
    }
}

/// What came back: the answers, and of every role whether it gave one.
#[derive(Debug)]
pub(in crate::shell) struct Gathered {
    pub reports: Vec<Report>,
    pub roles: Vec<(String, bool)>,
}

impl Scraper {
    /// Texts are written on threads of their own from now on.
    pub(in crate::shell) fn write_on(&mut self, helpers: Helpers) {
        self.writers = Some(FairThreads::new("metrics", Rank::Last, TEXTS, Some(helpers)));
    }

    /// What `text` comes to.
    ///
    /// # Errors
    /// Too many are being written.
    pub(in crate::shell) async fn write(
        &self,
        text: impl FnOnce() -> String + Send + 'static,
    ) -> Result<String, Crowded> {
        match &self.writers {
            Some(writers) => writers.run((None, String::new()), text).await,
            None => Ok(text()),
        }
    }

    /// Adds a role.
    pub(in crate::shell) fn add(
        &mut self,
        role: impl Into<String>,
        ask: impl Fn(Scrape) -> bool + Send + Sync + 'static,
    ) {
        self.roles.push((role.into(), Box::new(ask)));
    }

    /// Asks every role for all that it has counted, and waits for `patience` at most.
    pub(in crate::shell) async fn gather(&self, patience: Duration) -> Gathered {
        self.gather_as(false, patience).await
    }

    /// The same, for what a sample of the overview needs if it is brief.
    pub(in crate::shell) async fn gather_as(&self, is_brief: bool, patience: Duration) -> Gathered {
        let gathering = Arc::<Gathering>::default();
        let mut missing = 0;
        for (role, (_, ask)) in self.roles.iter().enumerate() {
            missing += usize::from(ask(Scrape { gathering: Arc::clone(&gathering), role, is_brief }));
        }
        let mut roles: Vec<(String, bool)> =
            self.roles.iter().map(|(role, _)| (role.clone(), false)).collect();
        let mut reports = Vec::new();
        let answered = poll_fn(|cx| {
            gathering.waker.register(cx.waker());
            while let Some((role, report)) = gathering.answers.pop() {
                roles[role].1 = true;
                reports.push(report);
                missing -= 1;
            }
            if missing == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        future::or(answered, glommio::timer::sleep(patience)).await;
        Gathered { reports, roles }
    }
}

#[cfg(test)]
mod tests {
    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;
    use crate::metrics::Name;

    #[test]
    fn role_that_does_not_answer_in_time_is_told_as_absent_and_the_others_are_there() {
        let local = LocalExecutorBuilder::new(Placement::Unbound);
        let run = local.spawn(|| async {
            // Asked, and never answers; asked, and has no room; asked, and answers from another thread.
            let held = Arc::<SegQueue<Scrape>>::default();
            let mut scraper = Scraper::default();
            let kept = Arc::clone(&held);
            scraper.add("busy", move |scrape| {
                kept.push(scrape);
                true
            });
            scraper.add("full", |_scrape| false);
            scraper.add("well", |scrape| {
                std::thread::spawn(move || {
                    let mut report = Report::default();
                    report.flag(Name::HasLeader, [], true);
                    scrape.answer(report);
                });
                true
            });
            let gathered = scraper.gather(Duration::from_millis(200)).await;
            let told: Vec<_> = gathered.roles.iter().map(|(role, told)| (role.as_str(), *told)).collect();
            assert_eq!(told, [("busy", false), ("full", false), ("well", true)]);
            assert_eq!(gathered.reports.len(), 1);
            // An answer that comes after all concerns nobody.
            held.pop().unwrap().answer(Report::default());

            // With all answers there it does not wait for the deadline.
            let mut scraper = Scraper::default();
            scraper.add("well", |scrape| {
                scrape.answer(Report::default());
                true
            });
            assert!(scraper.gather(Duration::from_secs(3_600)).await.roles[0].1);
        });
        run.unwrap().join().unwrap();
    }
}

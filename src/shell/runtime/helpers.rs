//! Threads for what would hold up an executor: disk work and large deallocations.
//!
//! A thread inherits the cores its parent may run on, and an executor may run on one. So all helper
//! threads are children of one that the main thread started, which does nothing else.

use std::io;

use crossbeam::channel;

use super::priority;

type Job = Box<dyn FnOnce() + Send>;

/// Starts helper threads. Clones share the parent.
#[derive(Debug, Clone)]
pub(in crate::shell) struct Helpers {
    jobs: channel::Sender<(&'static str, Job)>,
}

impl Helpers {
    /// Starts the parent. Call it on a thread that may run on all cores.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(in crate::shell) fn start() -> io::Result<Self> {
        let (jobs, inbox) = channel::unbounded::<(&'static str, Job)>();
        std::thread::Builder::new().name("helpers".to_owned()).spawn(move || {
            for (name, job) in inbox {
                if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(job) {
                    tracing::error!(name, %error, "cannot start a helper thread");
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs `job` on a thread of its own. If none can be started the job is dropped, which whoever
    /// waits for it sees by its channels.
    pub(in crate::shell) fn run(&self, name: &'static str, job: impl FnOnce() + Send + 'static) {
        let sent = self.jobs.send((name, Box::new(job)));
        assert!(sent.is_ok(), "the parent lives as long as its senders");
    }

    /// Like `run`, for long work that nobody waits for at once: it gives way to whatever else wants the
    /// core.
    pub(in crate::shell) fn run_in_background(
        &self,
        name: &'static str,
        job: impl FnOnce() + Send + 'static,
    ) {
        self.run(name, move || {
            priority::give_way();
            job();
        });
    }

    /// The same for work that must not be felt at all, and may take long where there is much else to do.
    pub(in crate::shell) fn run_at_last(&self, name: &'static str, job: impl FnOnce() + Send + 'static) {
        self.run(name, move || {
            priority::come_last();
            job();
        });
    }

    /// Drops something large elsewhere.
    pub(in crate::shell) fn discard<T: Send + 'static>(&self, value: T) {
        self.run("discard", move || drop(value));
    }
}

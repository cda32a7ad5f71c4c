//! What the roles run on: executors and the cores they are pinned to, rings and bells between them, helper
//! threads, the log, and how a process ends that cannot go on.

pub(in crate::shell) mod aside;
pub(in crate::shell) mod exit;
pub(in crate::shell) mod fair_threads;
pub(in crate::shell) mod helpers;
pub(in crate::shell) mod logging;
pub(in crate::shell) mod mesh;
pub(in crate::shell) mod pace;
pub(in crate::shell) mod passwords;
pub(in crate::shell) mod placement;
pub(in crate::shell) mod priority;
pub(in crate::shell) mod process;
pub(in crate::shell) mod pulse;
pub(in crate::shell) mod rights;
pub(in crate::shell) mod scrape;
pub(in crate::shell) mod service_manager;
pub(in crate::shell) mod waiting;
pub(in crate::shell) mod wake;
pub(in crate::shell) mod watchdog;
pub(in crate::shell) mod wiring;

//! A shard's answer to a scrape, and the text of all answers.

use super::call::leadership::Wait;
use super::tally::Turn;
use super::{Backend, ClientShard};
use crate::metrics::{self, Format, Label, Merged, Name, Report};
use crate::shell::runtime::fair_threads::Crowded;
use crate::shell::runtime::process;
use crate::shell::runtime::scrape::{Gathered, SCRAPE_PATIENCE, Scraper};

impl<B: Backend> ClientShard<B> {
    /// Adds what this shard has counted.
    pub(in crate::shell) fn report(&self, report: &mut Report) {
        let counters = self.counters();
        if !report.is_brief() {
            self.tallies.report(report);
        }
        // Addresses and keys are not for whoever can reach the page, where rights are asked for.
        if self.identities.revision().is_none() && !report.is_brief() {
            self.loads.report(self.connections.borrow().values(), report);
        }
        report.count(Name::ClientConnections, [], counters.connections);
        report.count(Name::ClientAccepted, [], counters.accepted);
        report.count(Name::ClientTimeouts, [], counters.timeouts);
        for (reason, ended) in [
            ("turned_away", counters.turned_away),
            ("no_protocol", counters.strangers),
            ("flood", counters.floods),
            ("too_many_pings", counters.too_many_pings),
            ("protocol_error", counters.protocol_errors),
            ("unanswered_ping", counters.stalled),
            ("unread_answers", counters.evicted),
            ("never_spoke", counters.silent_dropped),
        ] {
            report.count(Name::ClientEnded, [reason.into()], ended);
        }
        report.count(Name::ClientUnsent, ["calls".into()], counters.unsent_bytes);
        report.count(Name::ClientUnsent, ["watches".into()], counters.watch_unsent_bytes);
        report.count(Name::WatchStreams, [], counters.watch_streams);
        report.count(Name::Watchers, [], counters.watchers);
        self.watches.report(report);
        report.histogram(Name::WatchLag, [], &self.watch_lag);
        let mut pending = 0;
        self.calls.borrow().each(|call| pending += u64::from(call.wait == Wait::Write));
        report.count(Name::ProposalsPending, [], pending);
        report.count(Name::ProposalsFailed, [], self.proposals_failed.get());
        let held = self.ledger.held_bytes() + counters.watch_unsent_bytes;
        report.count(Name::Memory, ["connections".into()], held);
        report.count(Name::HealthSuccess, [], self.health[1].get());
        report.count(Name::HealthFailures, [], self.health[0].get());
        if self.config.shard == 0 && !report.is_brief() {
            for (name, stage, is_open) in self.config.features.all() {
                report.flag(Name::FeatureEnabled, [Label::from(name), Label::from(stage)], is_open);
            }
        }
    }

    /// Until it is dropped, calls begin and end at one time (`Tallies::begin_turn`).
    pub(in crate::shell) fn begin_turn(&self) -> Turn<'_> {
        self.tallies.begin_turn()
    }

    /// News for the watch hub has come through, so long after it was made.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds, far below 2^53 in any wait")]
    pub(in crate::shell::client) fn count_watch_lag(&self, lag_ns: u64) {
        self.watch_lag.observe(lag_ns as f64 / 1e9);
    }

    /// `/health` was answered.
    pub(in crate::shell::client) fn count_health(&self, is_well: bool) {
        self.health[usize::from(is_well)].increment();
    }
}

/// The text of a scrape.
///
/// # Errors
/// Too many are being written.
pub(in crate::shell::client) async fn scrape(scraper: &Scraper, format: Format) -> Result<String, Crowded> {
    let Gathered { reports, roles } = scraper.gather(SCRAPE_PATIENCE).await;
    // Thousands of lines, and files of the kernel: on a thread that nobody feels.
    let write = move || {
        let mut merged = Merged::default();
        reports.into_iter().for_each(|report| merged.add(report));
        let mut rest = Report::default();
        for (role, has_answered) in roles {
            rest.flag(Name::RoleUp, [role.into()], has_answered);
        }
        process::report(&mut rest);
        merged.add(rest);
        metrics::write(&merged, format)
    };
    scraper.write(write).await
}

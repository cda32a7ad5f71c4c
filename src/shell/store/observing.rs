//! The store role's answer to a scrape.

use super::StoreRole;
use crate::apply::AlarmType;
use crate::config::ETCD_API_VERSION;
use crate::metrics::{Name, Report};
use crate::shell::runtime::scrape::Scrape;

impl StoreRole {
    pub(super) fn answer_scrapes(&mut self) {
        while let Some(scrape) = self.ports.scrapes.take() {
            let report = self.report(&scrape);
            scrape.answer(report);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "revisions and bytes, far below 2^53")]
    fn report(&self, scrape: &Scrape) -> Report {
        let mut report =
            self.ports.scrapes.begin_report(scrape, self.ports.inbox.iter().map(|ring| ring.len()));
        self.observed.report(&mut report);
        let (machine, store) = (&self.machine, self.machine.store());
        report.number(Name::CurrentRevision, [], store.current_revision() as f64);
        report.number(Name::CompactRevision, [], store.compact_revision() as f64);
        report.count(Name::Keys, [], store.keys_count());
        report.count(Name::DbSize, [], machine.bytes_held());
        report.count(Name::DbSizeInUse, [], store.bytes_in_use());
        report.count(Name::Memory, ["store".into()], machine.bytes_held());
        let tallies = store.tallies();
        report.count(Name::Puts, [], tallies.puts);
        report.count(Name::Deletes, [], tallies.deletes);
        report.count(Name::TotalPutSize, [], tallies.put_bytes);
        report.count(Name::CompactionKeys, [], tallies.removed);
        report.number(Name::Quota, [], self.facts.quota_bytes as f64);
        report.count(Name::Applied, [], self.applied.0);
        report.count(Name::ApplyLag, [], self.facts.committed.0.saturating_sub(self.applied.0));
        report.count(Name::Leases, [], machine.leases().len() as u64);
        self.leases.report(&mut report);
        for alarm in machine.alarms().iter() {
            let kind = match alarm.kind {
                AlarmType::NoSpace => "NOSPACE",
                AlarmType::Corrupt => "CORRUPT",
            };
            report.flag(Name::Alarms, [alarm.member.to_string().into(), kind.into()], true);
        }
        report.flag(Name::ServerId, [self.position.member.to_string().into()], true);
        report.flag(Name::ServerVersion, [ETCD_API_VERSION.into()], true);
        let cluster_version = ETCD_API_VERSION.rsplit_once('.').map_or(ETCD_API_VERSION, |(minor, _)| minor);
        report.flag(Name::ClusterVersion, [cluster_version.into()], true);
        report.flag(Name::BuildInfo, [env!("CARGO_PKG_VERSION").into()], true);
        report
    }
}

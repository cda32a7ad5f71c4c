//! One task of the first shard asks all roles once a second: briefly, for the hour of history, and for everything while
//! somebody looks.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::overview::SAMPLE_INTERVAL;
use super::{Backend, ClientShard};
use crate::metrics::{Merged, Name, Report, Sampler};
use crate::shell::runtime::scrape::now_ns;

/// How long a role may take for one.
const PATIENCE: Duration = Duration::from_millis(900);

/// Takes a sample a second for as long as the shard serves.
pub(super) async fn run<B: Backend>(shard: Weak<ClientShard<B>>) {
    let mut sampler = Sampler::default();
    loop {
        glommio::timer::sleep(SAMPLE_INTERVAL).await;
        let Some(shard) = Weak::upgrade(&shard) else { return };
        if shard.is_stopping() {
            return;
        }
        let (overview, scraper) = (Arc::clone(&shard.config.overview), Arc::clone(&shard.config.scraper));
        drop::<Rc<_>>(shard);
        let is_watched = overview.is_watched();
        let gathered = scraper.gather_as(!is_watched, PATIENCE).await;
        let now_ns = now_ns();
        // Sorted and written on a helper thread.
        let write = move || {
            let mut merged = Merged::default();
            gathered.reports.into_iter().for_each(|report| merged.add(report));
            let mut series = Vec::new();
            if is_watched {
                let mut roles = Report::default();
                for (role, has_answered) in gathered.roles {
                    roles.flag(Name::RoleUp, [role.into()], has_answered);
                }
                merged.add(roles);
                merged.put_overview(&mut series);
            }
            (merged, Bytes::from(series))
        };
        let (merged, series) = glommio::executor().spawn_blocking(write).await;
        let sample = sampler.sample(merged, now_ns);
        overview.on_sample(sample, series);
    }
}

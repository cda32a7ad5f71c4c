//! What is committed, for all callers at once who ask in nobody's name.
//!
//! A question is answered by a linearizable read that began behind it; those that come while one is under way share the
//! next. Members that want a login refuse it, and so whoever asks learns that it may not watch either.

use std::rc::Rc;
use std::time::Duration;

use super::Upstream;
use crate::pb::etcdserverpb as pb;
use crate::rpc::{Method, Status};

/// How long it is looked for. Without a quorum nobody knows.
const PATIENCE: Duration = Duration::from_secs(1);

/// The key that is read. Nothing of it is sent back.
const KEY: &[u8] = b"_";

impl Upstream {
    /// The revision that is committed by the time of this call, or a later one.
    ///
    /// # Errors
    /// What the member says, or that nobody answers in time.
    pub(in crate::shell) async fn present(self: &Rc<Self>) -> Result<i64, Status> {
        let look = || {
            let upstream = Rc::clone(self);
            glommio::spawn_local(async move {
                let request = pb::RangeRequest { key: KEY.into(), count_only: true, ..Default::default() };
                let answered = upstream.ask::<pb::RangeResponse>(Method::Range, &request, PATIENCE).await;
                let revision = answered.map(|range| range.header.map_or(0, |header| header.revision));
                upstream.present_rounds.end(revision);
            })
            .detach();
        };
        self.present_rounds.next(look).await
    }
}

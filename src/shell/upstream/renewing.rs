//! Carries renewals of leases (`renewals`) on a stream at a member.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use super::call::{Asked, Failure, Said};
use super::renewals::Renewed;
use super::{Tried, Upstream};
use crate::rpc::Method;
use crate::rpc::framing::Splitter;

/// An answer is a header and two numbers.
const ANSWER_BYTES_MAX: u32 = 64 << 10;

/// Between two streams of which the first had no answer.
const PAUSE: Duration = Duration::from_millis(50);

impl Upstream {
    /// Renews a lease in nobody's name. `renewed` is called once, not before this returns.
    pub(in crate::shell) fn renew(self: &Rc<Self>, lease: i64, renewed: Renewed) {
        self.renewals.add(lease, renewed);
        if !self.renewals.begin() {
            glommio::spawn_local(Rc::clone(self).carry_renewals()).detach();
        }
    }

    /// Has a stream for renewals from the first one on.
    async fn carry_renewals(self: Rc<Self>) {
        let asked = Asked {
            path: Method::LeaseKeepAlive.row().path,
            said: Said { needs_leader: true, is_recent: true, ..Said::default() },
            timeout: None,
            first: None,
            is_unary: false,
            fails_fast: true,
        };
        loop {
            self.renewals.some().await;
            let failure = match self.begin(&asked, &mut Tried::default()).await {
                Ok(mut call) => {
                    let mut splitter = Splitter::new(ANSWER_BYTES_MAX);
                    poll_fn(|cx| self.renewals.poll(&mut call, &mut splitter, cx)).await
                }
                Err(status) => {
                    // Nobody takes it, which counts as a try of each.
                    while self.renewals.send_next().is_some() {}
                    Failure::Broken(status.message.into_owned())
                }
            };
            self.renewals.on_end(failure);
            glommio::timer::sleep(PAUSE).await;
        }
    }
}

//! Connections of other members at an address with TLS, until their handshake is done.
//!
//! Bounds: as many as there may be without a Hello; then the oldest makes room. The handshake has its own deadline.

use std::rc::Rc;
use std::time::Instant;

use futures_lite::future;

use super::{About, Transport};
use crate::shell::net::Stream;
use crate::shell::net::tls::HandshakeError;
use crate::shell::runtime::wake::Wake;
use crate::types::MemberId;

impl Transport {
    /// Does the handshake on a connection that was accepted, and takes it in.
    pub(super) fn secure(self: &Rc<Self>, stream: Stream) {
        // An address with TLS and without a certificate does not pass the configuration.
        let Some(acceptor) = self.config.acceptor.clone() else { return };
        if stream.set_nodelay().is_err() {
            return;
        }
        let (id, makes_room) = (self.next_id(), Rc::<Wake>::default());
        let crowded_out = {
            let mut in_handshake = self.in_handshake.borrow_mut();
            in_handshake.insert(id, Rc::clone(&makes_room));
            (self.config.half_open_max < in_handshake.len()).then(|| in_handshake.pop_first()).flatten()
        };
        if let Some((_, oldest)) = crowded_out {
            oldest.ring();
        }
        let transport = Rc::clone(self);
        let remote = stream.remote().map_or_else(|_| "?".to_owned(), |remote| remote.to_string());
        self.spawn(async move {
            let given_up = async {
                future::or(makes_room.rung(), transport.stopped()).await;
                Err(HandshakeError::Crowded)
            };
            let met = future::or(Box::pin(acceptor.accept(stream, Vec::new())), given_up).await;
            transport.in_handshake.borrow_mut().remove(&id);
            match met {
                Ok(stream) => transport.adopt(stream),
                Err(HandshakeError::Silent) => {}
                Err(error) => {
                    let about = (MemberId(0), About::Handshake(error.kind()));
                    if let Some(left_out) = transport.quiet.ask(about, Instant::now()) {
                        tracing::warn!(address = remote, %error, left_out, "rejected connection on peer endpoint");
                    }
                }
            }
        });
    }
}

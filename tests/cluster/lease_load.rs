//! Clients that hold leases, as service discovery does: granted, written under, kept alive for a while
//! through any member, then revoked or left to end.
//!
//! A client whose connection breaks goes on with the same lease through another member as long as it
//! believes that it lives.

use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::judge::history::{Answer, Call, leased_key};
use pinion_kit::pb::etcdserverpb as pb;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::load::{CALL_DEADLINE, RECONNECT, Shared, put_request, revision};

/// The least that members with the test's election timeout grant.
pub const TTL_S: u64 = 2;

/// Between two keep-alives; also longer than a third, as when a client is in trouble.
const RENEW: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1_200)];

/// A client.
pub struct Holder {
    pub member: usize,
    pub ports: Rc<[u16]>,
    pub shared: Rc<Shared>,
    pub rng: StdRng,
}

/// Where a lease is in its life.
struct Held {
    lease: i64,
    is_granted: bool,
    renewals_left: u32,
}

impl Holder {
    pub async fn run(mut self) {
        let mut held: Option<Held> = None;
        while !self.shared.is_over() {
            let connect = tokio::time::timeout(CALL_DEADLINE, Client::connect(self.ports[self.member])).await;
            match connect {
                Ok(Ok(client)) => {
                    let connection = self.shared.next_connection();
                    while !self.shared.is_over() {
                        let mut lease = held.take().unwrap_or_else(|| self.new_lease());
                        match self.live(&client, connection, &mut lease).await {
                            Ok(()) => {}
                            Err(error) => {
                                // Whether it was granted is not known; another will be.
                                held = Some(lease).filter(|lease| lease.is_granted);
                                if matches!(error, CallError::Transport(_)) {
                                    break;
                                }
                            }
                        }
                    }
                }
                _ => tokio::time::sleep(RECONNECT).await,
            }
            self.member = self.rng.random_range(0..self.ports.len());
        }
    }

    fn new_lease(&mut self) -> Held {
        let renewals_left = self.rng.random_range(0..8);
        Held { lease: self.shared.next_lease(), is_granted: false, renewals_left }
    }

    /// What is left of a lease's life, as far as its client takes part in it.
    async fn live(&mut self, client: &Client, connection: u64, held: &mut Held) -> Result<(), CallError> {
        let (member, lease) = (self.member, held.lease);
        let shared = Rc::clone(&self.shared);
        if !held.is_granted {
            let grant = async {
                let request = pb::LeaseGrantRequest { id: lease, ttl: TTL_S.cast_signed() };
                let answer = client.lease_grant(&request).await?;
                assert_eq!(answer.ttl, TTL_S.cast_signed(), "the lease is another than was asked for");
                Ok(Answer::Granted { revision: revision(answer.header) })
            };
            shared.noted(connection, member, Call::Grant { lease, ttl_s: TTL_S }, grant).await?;
            held.is_granted = true;
        }
        for number in 0..self.rng.random_range(1..4) {
            let (key, value) = (leased_key(lease, number), shared.next_value());
            let mut request = put_request(&key, &value);
            request.lease = lease;
            let put = async {
                match client.put(&request).await {
                    Ok(answer) => Ok(Answer::Written { revision: revision(answer.header) }),
                    Err(error) => no_lease(error),
                }
            };
            let call = Call::PutLeased { lease, key, value };
            if shared.noted(connection, member, call, put).await? == Answer::NoLease {
                return Ok(());
            }
        }
        let (mut requests, mut answers) = client.keep_alive().await?;
        while 0 < held.renewals_left && !shared.is_over() {
            tokio::time::sleep(self.rng.random_range(RENEW[0]..RENEW[1])).await;
            let renew = async {
                requests.send(&pb::LeaseKeepAliveRequest { id: lease })?;
                let ended = || CallError::Transport("the keep-alive stream ended".to_owned());
                let answer = answers.next().await?.ok_or_else(ended)?;
                assert_eq!(answer.id, lease, "an answer about another lease");
                match answer.ttl {
                    0 => Ok(Answer::NoLease),
                    ttl => {
                        assert_eq!(ttl, TTL_S.cast_signed());
                        Ok(Answer::Alive)
                    }
                }
            };
            held.renewals_left -= 1;
            if shared.noted(connection, member, Call::KeepAlive { lease }, renew).await? == Answer::NoLease {
                return Ok(());
            }
        }
        if self.rng.random_ratio(1, 2) {
            let revoke = async {
                match client.lease_revoke(lease).await {
                    Ok(answer) => Ok(Answer::Revoked { revision: revision(answer.header) }),
                    Err(error) => no_lease(error),
                }
            };
            shared.noted(connection, member, Call::Revoke { lease }, revoke).await?;
        }
        Ok(())
    }
}

fn no_lease(error: CallError) -> Result<Answer, CallError> {
    match error {
        CallError::Status { message, .. } if message == "etcdserver: requested lease not found" => {
            Ok(Answer::NoLease)
        }
        other => Err(other),
    }
}

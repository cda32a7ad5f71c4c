//! Clients that take turns under one lock, through any member; never two at a time.
//!
//! A client holds the lock from the answer that gave it until it asks to be rid of it: between these no
//! other may believe the same. The leases live far longer than anybody holds, so no hold outlives its
//! lease. Whoever does not know whether it waits or holds gives its lease back until that is answered.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::judge::history::{LOCKED, Moment};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::v3lockpb::LockRequest;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::load::{CALL_DEADLINE, RECONNECT, Shared};

/// Others are in front, and members fail.
const LOCK_DEADLINE: Duration = Duration::from_secs(4);

const TTL_S: i64 = 120;

/// One turn.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    pub from: Moment,
    pub to: Moment,
}

/// How many turns there were.
///
/// # Errors
/// Two that overlap.
pub fn check(holds: &[Hold]) -> Result<usize, String> {
    let mut holds = holds.to_vec();
    holds.sort_unstable_by_key(|hold| hold.from);
    match holds.windows(2).find(|pair| pair[1].from < pair[0].to) {
        Some(pair) => Err(format!("two hold one lock: {:?} and {:?}", pair[0], pair[1])),
        None => Ok(holds.len()),
    }
}

/// A client.
pub struct Contender {
    pub member: usize,
    pub ports: Rc<[u16]>,
    pub shared: Rc<Shared>,
    pub holds: Rc<RefCell<Vec<Hold>>>,
    pub rng: StdRng,
}

impl Contender {
    pub async fn run(mut self) {
        // Not one of the leases that are judged.
        let mut lease = 1_000_000 * (1 + i64::try_from(self.member).unwrap());
        while !self.shared.is_over() {
            lease += 1;
            if let Err(error) = self.turn(lease).await {
                self.shared.note_error(&error);
            }
            self.give_back(lease).await;
            tokio::time::sleep(self.rng.random_range(RECONNECT..20 * RECONNECT)).await;
        }
    }

    async fn client(&mut self) -> Result<Client, CallError> {
        self.member = self.rng.random_range(0..self.ports.len());
        let connect = Client::connect(self.ports[self.member]);
        tokio::time::timeout(CALL_DEADLINE, connect).await.unwrap_or(Err(CallError::Deadline))
    }

    async fn turn(&mut self, lease: i64) -> Result<(), CallError> {
        let client = self.client().await?;
        let request = pb::LeaseGrantRequest { id: lease, ttl: TTL_S };
        let grant = client.lease_grant(&request);
        tokio::time::timeout(CALL_DEADLINE, grant).await.unwrap_or(Err(CallError::Deadline))?;
        let request = LockRequest { name: LOCKED.into(), lease };
        let lock = client.lock(&request);
        let key = tokio::time::timeout(LOCK_DEADLINE, lock).await.unwrap_or(Err(CallError::Deadline))?.key;
        let from = self.shared.now();
        tokio::time::sleep(self.rng.random_range(Duration::ZERO..Duration::from_millis(20))).await;
        self.holds.borrow_mut().push(Hold { from, to: self.shared.now() });
        let unlock = client.unlock(key);
        tokio::time::timeout(CALL_DEADLINE, unlock).await.unwrap_or(Err(CallError::Deadline))?;
        Ok(())
    }

    /// Until it is known that the lease is no more. A grant whose answer was lost may come later, but
    /// with nobody's key on it.
    async fn give_back(&mut self, lease: i64) {
        loop {
            if let Ok(client) = self.client().await {
                let revoke = tokio::time::timeout(CALL_DEADLINE, client.lease_revoke(lease)).await;
                match revoke.unwrap_or(Err(CallError::Deadline)) {
                    Ok(_) => return,
                    Err(CallError::Status { code: 5, .. }) => return,
                    Err(_) => {}
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_overlap_of_two_turns_is_seen() {
        let hold = |from, to| Hold { from, to };
        assert_eq!(check(&[hold(30, 40), hold(0, 10), hold(10, 30)]), Ok(3));
        let said = check(&[hold(30, 40), hold(0, 10), hold(9, 30)]).unwrap_err();
        assert!(said.contains("two hold one lock"), "{said}");
    }
}

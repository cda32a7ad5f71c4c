//! Callers of requests and reads, and the number by which an answer finds its caller.
//!
//! A ticket is `kind or shard:12 | number:52`. Kinds are counted down from the top; shard numbers are what
//! is left. The number of a client's call is `generation:28 | slot:24`.
//!
//! Tickets travel through the log and to other members, but mean something only to the process that made
//! them; so their layout may change with a version. They come back from outside, so every 64 bits are some
//! caller: what no version of this code wrote is nobody.

/// Names a waiting caller on the member that took the request. Opaque to every core: it is carried through
/// the log and handed back with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// The parts of a process that wait for answers. Each kind's numbers are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A client's call, by the shard that took it.
    Client(ClientCall),
    /// The publication of this member's name and URLs. There is one at a time.
    Publish,
    /// A request of the store's own about leases.
    Lease(u64),
    /// The same about nodes with a time to live.
    Node(u64),
    /// A question about leases that another member's client asks this member, the leader.
    PassedOn(u64),
    /// A read of the raft role's own.
    Raft(u64),
    /// A compaction that the store asks for itself.
    Compaction(u64),
    /// A request whose answer does not matter.
    Nobody,
}

/// A client's call: its place among those of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCall {
    /// Below `SHARDS_MAX`.
    pub shard: u16,
    /// Counts the calls that had this slot, modulo `GENERATIONS`.
    pub generation: u32,
    /// Below `SLOTS_MAX`.
    pub slot: u32,
}

const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 28;
const NUMBER_BITS: u32 = SLOT_BITS + GENERATION_BITS;

/// Waiting calls that one shard can tell apart.
pub const SLOTS_MAX: u32 = 1 << SLOT_BITS;

/// Generations of a slot before they begin anew.
pub const GENERATIONS: u32 = 1 << GENERATION_BITS;

const PUBLISH: u64 = 0xfff;
const LEASE: u64 = 0xffe;
const PASSED_ON: u64 = 0xffd;
const RAFT: u64 = 0xffc;
const NOBODY: u64 = 0xffb;
const COMPACTION: u64 = 0xffa;
const NODE: u64 = 0xff9;

/// Shards that a ticket can name. Leaves room for more kinds.
pub const SHARDS_MAX: u16 = 0xff0;

impl Ticket {
    /// Whoever waits for the answer.
    #[must_use]
    pub const fn caller(self) -> Caller {
        let number = self.0 & ((1 << NUMBER_BITS) - 1);
        match self.0 >> NUMBER_BITS {
            PUBLISH => Caller::Publish,
            LEASE => Caller::Lease(number),
            PASSED_ON => Caller::PassedOn(number),
            RAFT => Caller::Raft(number),
            COMPACTION => Caller::Compaction(number),
            NODE => Caller::Node(number),
            shard if shard < SHARDS_MAX as u64 => Caller::Client(ClientCall {
                shard: (self.0 >> NUMBER_BITS) as u16,
                generation: ((self.0 >> SLOT_BITS) & ((1 << GENERATION_BITS) - 1)) as u32,
                slot: (self.0 & ((1 << SLOT_BITS) - 1)) as u32,
            }),
            _ => Caller::Nobody,
        }
    }
}

impl From<Caller> for Ticket {
    /// # Panics
    /// When a number does not fit.
    fn from(caller: Caller) -> Self {
        let (kind, number) = match caller {
            Caller::Client(ClientCall { shard, generation, slot }) => {
                assert!(shard < SHARDS_MAX, "shard {shard} does not fit a ticket");
                assert!(generation < GENERATIONS, "generation {generation} does not fit a ticket");
                assert!(slot < SLOTS_MAX, "slot {slot} does not fit a ticket");
                (shard.into(), u64::from(generation) << SLOT_BITS | u64::from(slot))
            }
            Caller::Publish => (PUBLISH, 0),
            Caller::Lease(number) => (LEASE, number),
            Caller::PassedOn(number) => (PASSED_ON, number),
            Caller::Raft(number) => (RAFT, number),
            Caller::Compaction(number) => (COMPACTION, number),
            Caller::Node(number) => (NODE, number),
            Caller::Nobody => (NOBODY, 0),
        };
        assert!(number < 1 << NUMBER_BITS, "one a nanosecond for fifty days: {number}");
        Self(kind << NUMBER_BITS | number)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn every_caller_is_told_from_all_others_by_its_ticket() {
        let mut callers = vec![Caller::Publish, Caller::Nobody];
        for number in [0, 1, (1 << NUMBER_BITS) - 1] {
            callers.extend([Caller::Lease(number), Caller::PassedOn(number)]);
            callers.extend([Caller::Raft(number), Caller::Compaction(number), Caller::Node(number)]);
        }
        for shard in [0, 1, SHARDS_MAX - 1] {
            for generation in [0, 1, GENERATIONS - 1] {
                for slot in [0, 1, SLOTS_MAX - 1] {
                    callers.push(Caller::Client(ClientCall { shard, generation, slot }));
                }
            }
        }
        let tickets: std::collections::BTreeSet<Ticket> =
            callers.iter().map(|&caller| caller.into()).collect();
        assert_eq!(tickets.len(), callers.len());
        for caller in callers {
            assert_eq!(Ticket::from(caller).caller(), caller);
        }
    }

    #[test]
    fn any_64_bits_are_a_caller_and_those_of_no_version_are_nobody() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..10_000 {
            let ticket = Ticket(random.random());
            match ticket.caller() {
                Caller::Client(_)
                | Caller::Lease(_)
                | Caller::PassedOn(_)
                | Caller::Raft(_)
                | Caller::Compaction(_)
                | Caller::Node(_) => {
                    assert_eq!(Ticket::from(ticket.caller()), ticket);
                }
                Caller::Publish => assert_eq!(ticket.0 >> NUMBER_BITS, PUBLISH),
                Caller::Nobody => {
                    assert!((u64::from(SHARDS_MAX)..=NOBODY).contains(&(ticket.0 >> NUMBER_BITS)))
                }
            }
        }
        assert_eq!(Ticket(u64::from(SHARDS_MAX) << NUMBER_BITS | 7).caller(), Caller::Nobody);
    }
}

//! What was sent, what was acknowledged, and whether a state of the store agrees with it.
//!
//! Pure: the store's content comes in as a map, so that planted faults can prove the check.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A key that is put once and perhaps deleted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    PutSent,
    Put { revision: i64 },
    DeleteSent { revision: i64 },
    Deleted,
}

/// A key that one task puts again and again, each time a larger number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Register {
    pub acknowledged: u64,
    pub sent: u64,
}

/// The whole store as read back: value and mod_revision by key.
pub type Content = BTreeMap<String, (Vec<u8>, i64)>;

/// Expectations of one data directory.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub keys: BTreeMap<u64, KeyState>,
    /// Two keys written by one transaction; the revision once acknowledged.
    pub pairs: BTreeMap<u64, Option<i64>>,
    pub registers: BTreeMap<u64, Register>,
    /// Revisions of acknowledged writes: no two may share one.
    pub revisions: BTreeSet<i64>,
    /// Highest acknowledged compaction.
    pub compacted: i64,
    /// Highest compaction that was sent: history from there on must be readable in any case.
    pub compaction_sent: i64,
    pub acks_count: u64,
    pub kills_count: u64,
    next_id: u64,
}

pub fn key_name(id: u64) -> String {
    format!("k/{id:010}")
}

pub fn pair_names(id: u64) -> [String; 2] {
    [format!("p/{id:010}/a"), format!("p/{id:010}/b")]
}

pub fn register_name(task: u64) -> String {
    format!("r/{task:03}")
}

/// A value that tells whose it is, of 0 to 1,500 bytes, so that records have all sizes.
pub fn value(id: u64) -> Vec<u8> {
    let mut value = format!("{id}:").into_bytes();
    let filling = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    value.resize(value.len() + usize::try_from(filling % 1_500).unwrap(), b'v');
    value
}

impl Ledger {
    /// Empty, to be shared by the tasks of a load.
    pub fn shared() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self::default()))
    }

    pub fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Notes an acknowledged write's revision. It must be new.
    pub fn acknowledge(&mut self, revision: i64) {
        self.acks_count += 1;
        assert!(self.revisions.insert(revision), "two acknowledged writes have revision {revision}");
    }

    /// Some key whose put was acknowledged and whose delete was not sent, near `id`.
    pub fn live_key(&self, id: u64) -> Option<(u64, i64)> {
        self.keys.range(id..).chain(self.keys.range(..id).rev()).find_map(|(id, state)| match state {
            KeyState::Put { revision } => Some((*id, *revision)),
            _ => None,
        })
    }

    pub fn revision_max(&self) -> i64 {
        self.revisions.last().copied().unwrap_or(1)
    }

    /// Compares a restarted store with what was promised. What was in doubt is decided by it, and
    /// must stay so.
    pub fn settle(&mut self, revision: i64, mut content: Content) -> Result<(), String> {
        if revision < self.revision_max() {
            return Err(format!("revision fell to {revision} from {}", self.revision_max()));
        }
        for (&id, state) in &mut self.keys {
            let found = content.remove(&key_name(id));
            if let Some((found_value, _)) = &found
                && *found_value != value(id)
            {
                return Err(format!("{} has a value that was never sent", key_name(id)));
            }
            *state = match (*state, found) {
                (KeyState::PutSent, Some((_, at))) => KeyState::Put { revision: at },
                (KeyState::PutSent | KeyState::DeleteSent { .. } | KeyState::Deleted, None) => {
                    KeyState::Deleted
                }
                (KeyState::Put { revision } | KeyState::DeleteSent { revision }, Some((_, at)))
                    if at == revision =>
                {
                    KeyState::Put { revision }
                }
                (was, found) => {
                    let at = found.map(|(_, at)| at);
                    return Err(format!("{}: {was:?}, found at {at:?}", key_name(id)));
                }
            };
        }
        let mut lost = Vec::new();
        for (&id, acknowledged) in &mut self.pairs {
            let found = pair_names(id).map(|name| content.remove(&name));
            match (*acknowledged, found) {
                (_, [Some((a, a_at)), Some((b, b_at))]) => {
                    if a != value(id) || b != value(id) || a_at != b_at {
                        return Err(format!("pair {id} is torn: revisions {a_at} and {b_at}"));
                    }
                    if acknowledged.is_some_and(|at| at != a_at) {
                        return Err(format!("pair {id}: {acknowledged:?}, found at {a_at}"));
                    }
                    *acknowledged = Some(a_at);
                }
                (None, [None, None]) => lost.push(id),
                (Some(at), [None, None]) => return Err(format!("pair {id} acknowledged at {at} is lost")),
                (was, found) => {
                    let there = found.map(|key| key.is_some());
                    return Err(format!("pair {id} ({was:?}) is there by half: {there:?}"));
                }
            }
        }
        for id in lost {
            self.pairs.remove(&id);
        }
        for (&task, register) in &mut self.registers {
            let found = match content.remove(&register_name(task)) {
                None => 0,
                Some((text, _)) => String::from_utf8_lossy(&text)
                    .parse()
                    .map_err(|_| format!("register {task} holds {text:?}"))?,
            };
            if found < register.acknowledged || found > register.sent {
                return Err(format!("register {task} holds {found}: {register:?}"));
            }
            *register = Register { acknowledged: found, sent: found };
        }
        match content.first_key_value() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{name} was never written, or was gone after an earlier restart")),
        }
    }

    pub fn summary(&self) -> String {
        format!(
            "{} kills, {} writes acknowledged, {} keys, {} pairs, revision {}, compacted {}",
            self.kills_count,
            self.acks_count,
            self.keys.len(),
            self.pairs.len(),
            self.revision_max(),
            self.compacted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each fault that the crash test exists for, planted into a good state, must be reported.
    #[test]
    fn ledger_notices_each_kind_of_broken_promise() {
        let mut ledger = Ledger::default();
        ledger.keys.insert(1, KeyState::Put { revision: 2 });
        ledger.keys.insert(2, KeyState::PutSent);
        ledger.keys.insert(3, KeyState::Deleted);
        ledger.pairs.insert(4, Some(3));
        ledger.pairs.insert(5, None);
        ledger.registers.insert(6, Register { acknowledged: 7, sent: 8 });
        ledger.revisions.extend([2, 3]);
        let mut good = Content::new();
        good.insert(key_name(1), (value(1), 2));
        good.insert(register_name(6), (b"7".to_vec(), 4));
        for name in pair_names(4) {
            good.insert(name, (value(4), 3));
        }
        assert_eq!(ledger.clone().settle(4, good.clone()), Ok(()));

        type Plant = fn(&mut Content);
        let faults: [(&str, Plant); 9] = [
            ("Put { revision: 2 }, found at None", |c| drop(c.remove(&key_name(1)))),
            ("value that was never sent", |c| drop(c.insert(key_name(1), (b"x".to_vec(), 2)))),
            ("found at Some(9)", |c| drop(c.insert(key_name(1), (value(1), 9)))),
            ("Deleted, found", |c| drop(c.insert(key_name(3), (value(3), 4)))),
            ("is there by half", |c| drop(c.remove(&pair_names(4)[0]))),
            ("is there by half", |c| drop(c.insert(pair_names(5)[1].clone(), (value(5), 4)))),
            ("is torn", |c| drop(c.insert(pair_names(4)[1].clone(), (value(4), 4)))),
            ("register 6 holds 6", |c| drop(c.insert(register_name(6), (b"6".to_vec(), 4)))),
            ("was never written", |c| drop(c.insert("x".to_owned(), (Vec::new(), 4)))),
        ];
        for (message, plant) in faults {
            let mut content = good.clone();
            plant(&mut content);
            let error = ledger.clone().settle(4, content).expect_err(message);
            assert!(error.contains(message), "{message:?}: {error}");
        }
        let error = ledger.clone().settle(2, good).expect_err("revision");
        assert!(error.contains("revision fell to 2 from 3"), "{error}");
    }
}

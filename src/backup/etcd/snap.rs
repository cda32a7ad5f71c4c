//! `.snap` files: where a snapshot stands, and the members as of there, which etcd before 3.6 starts from.
//!
//! ```text
//! file      1 crc: CRC-32C of 2 | 2 data: 1 data | 2 metadata: 1 ConfState | 2 index | 3 term
//! data      JSON of the v2 store, of which only `Root` counts: nodes with Path, Value and Children
//! ```

use serde_json::Value as Json;

use super::fields::{bytes, conf_state, fields, number};
use super::roster::Roster;
use crate::backup::MemberEntry;

/// Why a file is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapFault {
    /// etcd passes over it and takes the one before.
    #[error("{0}")]
    Damaged(&'static str),
    #[error("{0}")]
    Refused(String),
}

/// What a `.snap` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snap {
    pub index: u64,
    pub term: u64,
    pub(super) roster: Roster,
}

impl Snap {
    /// Reads a file.
    ///
    /// # Errors
    /// It is damaged, or holds what is refused.
    pub fn read(file: &[u8]) -> Result<Self, SnapFault> {
        let damaged = SnapFault::Damaged;
        let outer = fields(file).ok_or(damaged("it does not decode"))?;
        let data = bytes(&outer, 2);
        if data.is_empty() || number(&outer, 1) != u64::from(crc32c::crc32c(data)) {
            return Err(damaged("its sum is wrong"));
        }
        let snapshot = fields(data).ok_or(damaged("it does not decode"))?;
        let metadata = fields(bytes(&snapshot, 2)).ok_or(damaged("it does not decode"))?;
        let (voters, learners) =
            conf_state(bytes(&metadata, 1)).map_err(|problem| SnapFault::Refused(problem.to_owned()))?;
        let mut roster = of_json(bytes(&snapshot, 1)).map_err(SnapFault::Refused)?;
        roster.set_roles(&voters, &learners);
        Ok(Self { index: number(&metadata, 2), term: number(&metadata, 3), roster })
    }
}

fn of_json(json: &[u8]) -> Result<Roster, String> {
    let store: Json = serde_json::from_slice(json).map_err(|error| format!("its v2 store: {error}"))?;
    let child = |node: &Json, name: &str| node["Children"].get(name).cloned().unwrap_or_default();
    let root = &store["Root"];
    let names = |node: &Json| -> Vec<String> {
        node["Children"].as_object().map(|children| children.keys().cloned().collect()).unwrap_or_default()
    };
    if !names(&child(root, "1")).is_empty() {
        return Err(
            "it holds keys of etcd's v2 store, which cannot be imported: delete them, or move them to v3, with that etcd"
                .to_owned(),
        );
    }
    let cluster = child(root, "0");
    let mut roster = Roster::default();
    let members = child(&cluster, "members");
    for name in names(&members) {
        let id = u64::from_str_radix(&name, 16).map_err(|_| format!("member {name:?}"))?;
        let member = child(&members, &name);
        let mut entry = MemberEntry { id, ..MemberEntry::default() };
        for part in ["raftAttributes", "attributes"] {
            let value = child(&member, part);
            let Some(text) = value["Value"].as_str() else { continue };
            entry.take_attributes(text.as_bytes()).map_err(|problem| format!("member {name}: {problem}"))?;
        }
        roster.members.insert(id, entry);
    }
    for name in names(&child(&cluster, "removed_members")) {
        roster
            .removed
            .insert(u64::from_str_radix(&name, 16).map_err(|_| format!("removed member {name:?}"))?);
    }
    Ok(roster)
}

//! Protobuf's fields one by one, for messages of etcd's that have no client.

use crate::types::proto::take_varint;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Bytes(_) => None,
        }
    }

    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) => None,
        }
    }
}

/// All fields of a message in their order. `None`: it does not decode.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            1 => {
                let (number, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Value::Number(u64::from_le_bytes(*number))
            }
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        found.push((key >> 3, value));
    }
    Some(found)
}

/// The last number field of this name, 0 where it is absent.
pub(super) fn number(fields: &[(u64, Value<'_>)], name: u64) -> u64 {
    let found = fields.iter().rev().find(|(number, _)| *number == name);
    found.and_then(|(_, value)| value.number()).unwrap_or_default()
}

/// The last bytes field of this name, empty where it is absent.
pub(super) fn bytes<'a>(fields: &[(u64, Value<'a>)], name: u64) -> &'a [u8] {
    let found = fields.iter().rev().find(|(number, _)| *number == name);
    found.and_then(|(_, value)| value.bytes()).unwrap_or_default()
}

/// Raft's ConfState: voters and learners. An error for what etcd never writes.
pub(super) fn conf_state(bytes: &[u8]) -> Result<(Vec<u64>, Vec<u64>), &'static str> {
    let fields = fields(bytes).ok_or("a ConfState that does not decode")?;
    let (mut voters, mut learners) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        let list = match name {
            1 => &mut voters,
            2 => &mut learners,
            3 | 4 => return Err("a ConfState of two configurations at once"),
            5 => continue,
            _ => return Err("a ConfState with fields that are not known"),
        };
        match value {
            Value::Number(id) => list.push(id),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    list.push(take_varint(&mut packed).ok_or("a ConfState that does not decode")?);
                }
            }
        }
    }
    Ok((voters, learners))
}

//! The gateway's messages: which fields each has, by number and by name. Made by `build.rs` of `proto/`.

/// A message.
#[derive(Debug)]
pub struct Message {
    /// By ascending number.
    pub(super) fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// As the `.proto` file has it: the name in answers.
    pub(super) name: &'static str,
    /// In lowerCamelCase: taken in requests too.
    pub(super) camel: &'static str,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    /// The `oneof` it belongs to. Such a field has presence.
    pub(super) oneof: Option<u32>,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Int64,
    Uint64,
    Uint32,
    Bool,
    Text,
    Bytes,
    Enum(&'static Enum),
    Message(&'static Message),
}

/// An enum.
#[derive(Debug)]
pub(super) struct Enum {
    pub(super) values: &'static [(&'static str, i32)],
}

/// The messages of a method.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub request: &'static Message,
    pub answer: &'static Message,
}

impl Call {
    /// The messages of the method with this gRPC path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        call(path)
    }
}

impl Message {
    /// The field with this number. Most messages number theirs from 1 without a gap.
    pub(super) fn by_number(&self, number: u32) -> Option<&'static Field> {
        let slot = (number as usize).wrapping_sub(1);
        match self.fields.get(slot) {
            Some(field) if field.number == number => Some(field),
            _ => self.fields.iter().find(|field| field.number == number),
        }
    }

    /// Slot and field of this name, in either spelling.
    pub(super) fn by_name(&self, name: &str) -> Option<(usize, &'static Field)> {
        self.fields.iter().enumerate().find(|(_, field)| field.name == name || field.camel == name)
    }
}

impl Enum {
    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(found, _)| *found == name).map(|(_, number)| *number)
    }

    pub(super) fn name(&self, number: i32) -> Option<&'static str> {
        self.values.iter().find(|(_, found)| *found == number).map(|(name, _)| *name)
    }
}

include!(concat!(env!("OUT_DIR"), "/json_schema.rs"));

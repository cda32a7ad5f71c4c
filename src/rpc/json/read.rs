//! The text of a request, to the bytes of its message.
//!
//! `serde_json` reads the text and hands over one value after the other; each is appended as its field. The
//! length in front of a nested message is put there when its end is known.
//!
//! Cost: one pass and one buffer; a nested message's bytes move once for each length of more than one byte above
//! them.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::schema::{Enum, Field, Kind, Message};
use crate::types::proto::{put_varint, varint_len};

/// Wire types.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Why a text is no such message: the reader's words, with line and column.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unreadable(#[from] serde_json::Error);

/// Appends the bytes of the message that `text` begins with. What follows the message is not looked at, as etcd
/// does not. An empty text is an empty message.
///
/// # Errors
/// The text is no JSON, or not this message's. What was appended is of no use then.
pub fn read(message: &'static Message, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unreadable> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    Ok(reader.deserialize_any(MessageVisitor { message, out })?)
}

struct MessageVisitor<'a> {
    message: &'static Message,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for MessageVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut seen, mut oneofs) = (0_u64, 0_u64);
        while let Some(found) = map.next_key_seed(NameSeed(self.message))? {
            let Some((slot, field)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen >> slot & 1 == 1 {
                return Err(A::Error::custom(format_args!("field {:?} is given twice", field.name)));
            }
            seen |= 1 << slot;
            let is_set = map.next_value_seed(FieldSeed { field, out: self.out })?;
            if let Some(oneof) = field.oneof
                && is_set
            {
                if oneofs >> oneof & 1 == 1 {
                    let name = field.name;
                    return Err(A::Error::custom(format_args!(
                        "{name:?} excludes a field that is given too"
                    )));
                }
                oneofs |= 1 << oneof;
            }
        }
        Ok(())
    }
}

/// A field's name. None: the message has no such field.
struct NameSeed(&'static Message);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<(usize, &'static Field)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<(usize, &'static Field)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.by_name(name))
    }
}

/// A field's value, list or not. False: it is `null`, and so unset.
struct FieldSeed<'a> {
    field: &'static Field,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_any(self)
    }
}

/// One value: that of a field, or of a list.
struct ValueSeed<'a> {
    field: &'static Field,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl FieldSeed<'_> {
    fn one<E: serde::de::Error>(self, put: impl FnOnce(ValueSeed<'_>) -> Result<(), E>) -> Result<bool, E> {
        if self.field.repeated {
            return Err(E::custom(format_args!("field {:?} is a list", self.field.name)));
        }
        put(ValueSeed { field: self.field, out: self.out })?;
        Ok(true)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?}", self.field.name)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<bool, E> {
        self.one(|seed| seed.visit_bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<bool, E> {
        self.one(|seed| seed.visit_i64(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<bool, E> {
        self.one(|seed| seed.visit_u64(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<bool, E> {
        self.one(|seed| seed.visit_f64(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<bool, E> {
        self.one(|seed| seed.visit_str(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        self.one(|seed| seed.visit_map(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        if !self.field.repeated {
            return Err(A::Error::custom(format_args!("field {:?} is no list", self.field.name)));
        }
        while list.next_element_seed(ValueSeed { field: self.field, out: self.out })?.is_some() {}
        Ok(true)
    }
}

impl ValueSeed<'_> {
    fn wrong<E: serde::de::Error>(&self, what: &dyn fmt::Display) -> E {
        E::custom(format_args!("{what} is no value for {:?}", self.field.name))
    }

    fn put_key(&mut self, wire_type: u64) {
        put_varint(self.out, u64::from(self.field.number) << 3 | wire_type);
    }

    /// A zero says nothing unless the field has presence.
    fn put_number(&mut self, value: u64) {
        if value != 0 || self.field.repeated || self.field.oneof.is_some() {
            self.put_key(VARINT);
            put_varint(self.out, value);
        }
    }

    fn put_integer<E: serde::de::Error>(mut self, value: i128, text: &dyn fmt::Display) -> Result<(), E> {
        // Protobuf's negative numbers are 64 bits long, whatever their type.
        let number = match self.field.kind {
            Kind::Int64 => i64::try_from(value).ok().map(i64::cast_unsigned),
            Kind::Enum(_) => i32::try_from(value).ok().map(|value| i64::from(value).cast_unsigned()),
            Kind::Uint64 => u64::try_from(value).ok(),
            Kind::Uint32 => u32::try_from(value).ok().map(u64::from),
            _ => None,
        };
        match number {
            Some(number) => {
                self.put_number(number);
                Ok(())
            }
            None => Err(self.wrong(text)),
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() || self.field.repeated || self.field.oneof.is_some() {
            self.put_key(LENGTH);
            put_varint(self.out, bytes.len() as u64);
            self.out.extend_from_slice(bytes);
        }
    }

    fn put_base64<E: serde::de::Error>(mut self, text: &str) -> Result<(), E> {
        let is_url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
        let engine = if is_url_safe { URL_SAFE } else { STANDARD };
        let digits = text.trim_end_matches('=').len();
        let length = digits / 4 * 3 + (digits % 4 * 3) / 4;
        let before = self.out.len();
        if length == 0 && text.is_empty() {
            self.put_slice(&[]);
            return Ok(());
        }
        // Padding is whole or left out.
        let is_padded_by_halves = digits < text.len() && !text.len().is_multiple_of(4);
        if is_padded_by_halves && !text.contains(['\n', '\r']) {
            return Err(E::custom(format_args!("field {:?} is no base64", self.field.name)));
        }
        self.put_key(LENGTH);
        put_varint(self.out, length as u64);
        let start = self.out.len();
        // The decoder wants room for whole groups.
        self.out.resize(start + digits.div_ceil(4) * 3, 0);
        if engine.decode_slice(text, &mut self.out[start..]) == Ok(length) {
            self.out.truncate(start + length);
            return Ok(());
        }
        self.out.truncate(before);
        // Go's decoder passes over the ends of lines, which tools put after every 76 digits.
        if text.contains(['\n', '\r']) {
            return self.put_base64(&text.replace(['\n', '\r'], ""));
        }
        Err(E::custom(format_args!("field {:?} is no base64", self.field.name)))
    }
}

/// A whole number, as JSON writes numbers. Such a text may also stand in quotes.
fn integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Ok(value) = text.parse::<i128>() {
        return Some(value);
    }
    let value = serde_json::from_str::<f64>(text).ok()?;
    whole(value)
}

/// The integer that a number with a fraction or an exponent is.
fn whole(value: f64) -> Option<i128> {
    // No 64-bit number lies beyond. The least of them does not come here unless it was rounded to.
    const RANGE: std::ops::Range<f64> = -9_223_372_036_854_775_807.0..18_446_744_073_709_551_616.0;
    if value.fract() != 0.0 || value <= RANGE.start || RANGE.end <= value {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within 65 bits")]
    Some(value as i128)
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?}", self.field.name)
    }

    fn visit_bool<E: serde::de::Error>(mut self, value: bool) -> Result<(), E> {
        match self.field.kind {
            Kind::Bool => {
                self.put_number(u64::from(value));
                Ok(())
            }
            _ => Err(self.wrong(&value)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put_integer(value.into(), &value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put_integer(value.into(), &value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match whole(value) {
            Some(number) => self.put_integer(number, &value),
            None => Err(self.wrong(&value)),
        }
    }

    fn visit_str<E: serde::de::Error>(mut self, value: &str) -> Result<(), E> {
        match self.field.kind {
            Kind::Bytes => self.put_base64(value),
            Kind::Text => {
                self.put_slice(value.as_bytes());
                Ok(())
            }
            // An unknown name is passed over as an unknown field is.
            Kind::Enum(values) => match Enum::number(values, value) {
                Some(number) => self.put_integer(number.into(), &value),
                None => Ok(()),
            },
            Kind::Int64 | Kind::Uint64 | Kind::Uint32 => match integer(value) {
                Some(number) => self.put_integer(number, &value),
                None => Err(self.wrong(&format_args!("{value:?}"))),
            },
            Kind::Bool | Kind::Message(_) => Err(self.wrong(&format_args!("{value:?}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        let Kind::Message(message) = self.field.kind else { return Err(self.wrong(&"an object")) };
        self.put_key(LENGTH);
        let at = self.out.len();
        // Most are short enough for a length of one byte.
        self.out.push(0);
        MessageVisitor { message, out: self.out }.visit_map(map)?;
        let length = self.out.len() - at - 1;
        let more = varint_len(length as u64) - 1;
        if 0 < more {
            self.out.resize(self.out.len() + more, 0);
            self.out.copy_within(at + 1..at + 1 + length, at + 1 + more);
        }
        put_varint(&mut &mut self.out[at..=at + more], length as u64);
        Ok(())
    }
}

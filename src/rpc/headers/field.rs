//! One field of a header block, as HPACK writes it.
//!
//! Reads where a field ends and what it consists of, and decodes no text. So a block that comes in pieces
//! can be followed with the bytes of one field in memory.
//!
//! Compatibility: RFC 7541 section 6. An integer has at most five bytes, as in the decoder behind, and
//! none of more has a use.

use super::fault::HpackError;
use super::huffman;

/// A text, maybe in Huffman's code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl<'a> Text<'a> {
    /// What it says; `scratch` holds it when it has to be decoded.
    pub(super) fn decode<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], HpackError>
    where
        'a: 'b,
    {
        if !self.is_huffman {
            return Ok(self.bytes);
        }
        scratch.clear();
        huffman::decode(self.bytes, scratch)?;
        Ok(scratch)
    }
}

/// Where a literal has its name from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    Index(usize),
    Text(Text<'a>),
}

/// What a field is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    /// All of it is in a table.
    Indexed(usize),
    Literal {
        name: Name<'a>,
        value: Text<'a>,
        /// It goes into the table.
        is_kept: bool,
    },
    /// No field: the table gets a size.
    TableSize(usize),
}

/// Why there is no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It goes on behind the bytes that are there.
    Incomplete(Incomplete),
    /// It never will be one.
    Malformed,
}

/// What is known of a field whose end is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incomplete {
    /// Bytes that it has at least.
    pub(super) bytes_min: usize,
    /// Those are all it has: its value is what is missing.
    pub(super) is_exact: bool,
    /// It goes into the table.
    pub(super) is_kept: bool,
}

impl From<Missing> for HpackError {
    fn from(_: Missing) -> Self {
        Self
    }
}

/// Bytes of an integer at most, the prefix included.
const INTEGER_BYTES_MAX: usize = 5;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_kept: bool,
}

impl<'a> Reader<'a> {
    fn incomplete(&self, bytes_min: usize, is_exact: bool) -> Missing {
        Missing::Incomplete(Incomplete { bytes_min, is_exact, is_kept: self.is_kept })
    }

    fn byte(&mut self) -> Result<u8, Missing> {
        let byte = self.bytes.get(self.at).ok_or_else(|| self.incomplete(self.at + 1, false))?;
        self.at += 1;
        Ok(*byte)
    }

    /// An integer; `mask` is its prefix's bits.
    fn integer(&mut self, mask: u8) -> Result<usize, Missing> {
        let prefix = self.byte()? & mask;
        let mut value = usize::from(prefix);
        if prefix < mask {
            return Ok(value);
        }
        for nth in 0..INTEGER_BYTES_MAX - 1 {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Missing::Malformed)
    }

    fn text(&mut self, is_last: bool) -> Result<Text<'a>, Missing> {
        let is_huffman = self.bytes.get(self.at).is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(0x7f)?;
        let end = self.at + length;
        let Some(bytes) = self.bytes.get(self.at..end) else { return Err(self.incomplete(end, is_last)) };
        self.at = end;
        Ok(Text { bytes, is_huffman })
    }
}

/// The first field of `bytes`, which are not empty, and how many of them it is.
pub(super) fn read(bytes: &[u8]) -> Result<(Field<'_>, usize), Missing> {
    let first = bytes[0];
    let is_kept = matches!(first, 0x40..=0x7f);
    let mut reader = Reader { bytes, at: 0, is_kept };
    let field = match first {
        0x80.. => Field::Indexed(reader.integer(0x7f)?),
        0x20..=0x3f => Field::TableSize(reader.integer(0x1f)?),
        _ => {
            let index = reader.integer(if is_kept { 0x3f } else { 0x0f })?;
            let name = if index == 0 { Name::Text(reader.text(false)?) } else { Name::Index(index) };
            Field::Literal { name, value: reader.text(true)?, is_kept }
        }
    };
    Ok((field, reader.at))
}

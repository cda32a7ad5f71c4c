//! HPACK (RFC 7541): request headers out, reply headers and trailers in.
//!
//! The encoder inserts each field once and names it by index ever after, so a request's header block
//! is a handful of bytes that the connection copies unchanged. The decoder is complete (both tables,
//! evictions, size updates, Huffman), because one block it cannot follow makes every later one wrong.
//!
//! Invariants: `table_bytes` is the sum of the entries' sizes and never exceeds `table_bytes_max`;
//! `changes` moves whenever the dynamic table's contents or bound move, so two decodings of equal
//! bytes at equal `changes`, the first of which left it alone, mean the same (`http2.rs` relies on it).
//! Cost: decoding is the slow path; a steady connection takes it a few times in its life.

use std::collections::VecDeque;

/// RFC 7541 §4.1: what an entry counts beyond its name and value.
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// RFC 9113 §6.5.2: the table's size before either side says otherwise.
pub(crate) const TABLE_BYTES_DEFAULT: usize = 4096;
/// The first index of the dynamic table.
const DYNAMIC_BASE: usize = STATIC_TABLE.len() + 1;

/// A header block that does not follow RFC 7541. The connection cannot go on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("header block ends in the middle of a field")]
    Truncated,
    #[error("integer larger than any header needs")]
    IntegerTooLarge,
    #[error("index {0} is in neither table")]
    NoSuchIndex(usize),
    #[error("dynamic table of {0} bytes was never agreed to")]
    TableTooLarge(usize),
    #[error("string is not valid Huffman code")]
    BadHuffman,
}

/// RFC 7541 Appendix A.
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Code length of each byte, RFC 7541 Appendix B. The code is canonical (codes of one length count up
/// in the order of their bytes), so the lengths say it all; the end-of-string code has 30 bits.
#[rustfmt::skip]
const HUFFMAN_LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8,
    7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7,
    7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23,
    24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24,
    20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
    27, 27, 27, 26,
];
const HUFFMAN_LENGTH_MAX: usize = 30;

/// Reads the peer's header blocks and follows its dynamic table.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Newest first: slot 0 is index 62.
    entries: VecDeque<(Vec<u8>, Vec<u8>)>,
    table_bytes: usize,
    table_bytes_max: usize,
    changes: u64,
}

impl Decoder {
    /// A decoder whose peer was told nothing about the table's size (we never send that setting).
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), table_bytes: 0, table_bytes_max: TABLE_BYTES_DEFAULT, changes: 0 }
    }

    /// Counts the changes of the dynamic table.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Hands every field of `block` to `on_field`, in order.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut on_field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = take_integer(&mut block, 7)?;
                let (name, value) = self.field(index)?;
                on_field(name, value);
            } else if first & 0xC0 == 0x40 {
                let (name, value) = self.take_literal(&mut block, 6)?;
                on_field(&name, &value);
                self.insert(name, value);
            } else if first & 0xE0 == 0x20 {
                let bytes_max = take_integer(&mut block, 5)?;
                if bytes_max > TABLE_BYTES_DEFAULT {
                    return Err(HpackError::TableTooLarge(bytes_max));
                }
                self.table_bytes_max = bytes_max;
                self.changes += 1;
                self.evict_to(bytes_max);
            } else {
                let (name, value) = self.take_literal(&mut block, 4)?;
                on_field(&name, &value);
            }
        }
        Ok(())
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let no_such = HpackError::NoSuchIndex(index);
        if index >= DYNAMIC_BASE {
            let (name, value) = self.entries.get(index - DYNAMIC_BASE).ok_or(no_such)?;
            return Ok((name, value));
        }
        let (name, value) = STATIC_TABLE.get(index.checked_sub(1).ok_or(no_such)?).ok_or(no_such)?;
        Ok((name.as_bytes(), value.as_bytes()))
    }

    fn take_literal(&self, block: &mut &[u8], prefix_bits: u32) -> Result<(Vec<u8>, Vec<u8>), HpackError> {
        let index = take_integer(block, prefix_bits)?;
        let name = if index == 0 { take_string(block)? } else { self.field(index)?.0.to_vec() };
        Ok((name, take_string(block)?))
    }

    fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        let entry_bytes = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.changes += 1;
        // An entry larger than the table empties it and is not kept (§4.4): that is no error.
        self.evict_to(self.table_bytes_max.saturating_sub(entry_bytes));
        if entry_bytes <= self.table_bytes_max {
            self.entries.push_front((name, value));
            self.table_bytes += entry_bytes;
        }
        assert!(self.table_bytes <= self.table_bytes_max, "{} > {}", self.table_bytes, self.table_bytes_max);
    }

    fn evict_to(&mut self, bytes_max: usize) {
        while self.table_bytes > bytes_max {
            let (name, value) = self.entries.pop_back().expect("bytes are counted from entries");
            self.table_bytes -= name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        }
    }
}

fn take_integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    let (&first, mut rest) = block.split_first().ok_or(HpackError::Truncated)?;
    let prefix_max = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(first) & prefix_max;
    if value == prefix_max {
        // Four more bytes reach 2^28: far beyond any frame, and no shift can overflow.
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(HpackError::Truncated)?;
            rest = after;
            if shift > 21 {
                return Err(HpackError::IntegerTooLarge);
            }
            value += usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

fn take_string(block: &mut &[u8]) -> Result<Vec<u8>, HpackError> {
    let is_huffman = block.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = take_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *block = rest;
    if is_huffman { decode_huffman(text) } else { Ok(text.to_vec()) }
}

/// Bytes by code, shortest first, and how many codes each length has: the canonical code's whole table.
const fn huffman_symbols() -> ([u8; 256], [u32; HUFFMAN_LENGTH_MAX + 1]) {
    let mut symbols = [0; 256];
    let mut counts = [0; HUFFMAN_LENGTH_MAX + 1];
    let mut filled = 0;
    let mut length = 1;
    while length <= HUFFMAN_LENGTH_MAX {
        let mut symbol: u8 = 0;
        loop {
            if HUFFMAN_LENGTHS[symbol as usize] as usize == length {
                symbols[filled] = symbol;
                filled += 1;
                counts[length] += 1;
            }
            if symbol == u8::MAX {
                break;
            }
            symbol += 1;
        }
        length += 1;
    }
    assert!(filled == 256);
    (symbols, counts)
}

fn decode_huffman(text: &[u8]) -> Result<Vec<u8>, HpackError> {
    const TABLE: ([u8; 256], [u32; HUFFMAN_LENGTH_MAX + 1]) = huffman_symbols();
    let (symbols, counts) = &TABLE;
    let mut decoded = Vec::with_capacity(text.len() * 8 / 5);
    // `code` is the bits read since the last symbol; `first` the smallest code of that length;
    // `skipped` how many symbols have shorter codes.
    let (mut code, mut first, mut skipped, mut length) = (0_u32, 0_u32, 0_u32, 0_usize);
    for bit_at in 0..text.len() * 8 {
        let bit = (text[bit_at / 8] >> (7 - bit_at % 8)) & 1;
        code = (code << 1) | u32::from(bit);
        first <<= 1;
        length += 1;
        if length > HUFFMAN_LENGTH_MAX {
            return Err(HpackError::BadHuffman);
        }
        let count = counts[length];
        if code - first < count {
            decoded.push(symbols[usize::try_from(skipped + code - first).expect("under 256")]);
            (code, first, skipped, length) = (0, 0, 0, 0);
        } else if length == HUFFMAN_LENGTH_MAX {
            return Err(HpackError::BadHuffman); // the end-of-string code must not appear (§5.2)
        } else {
            first += count;
            skipped += count;
        }
    }
    // §5.2: padding is the start of the end-of-string code (all ones) and shorter than a byte.
    if length > 7 || code + 1 != 1 << length {
        return Err(HpackError::BadHuffman);
    }
    Ok(decoded)
}

/// Writes request header blocks: literals that enter the table the first time, indices afterwards.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// Oldest first; nothing is ever evicted, because `encode` stops inserting at the bound.
    inserted: Vec<(String, String)>,
    table_bytes: usize,
    /// The server keeps a smaller table than the default: use none at all.
    is_tableless: bool,
    size_update_due: bool,
}

impl Encoder {
    /// The server's SETTINGS_HEADER_TABLE_SIZE. A table smaller than the default is not worth following:
    /// it is given up, and literals go out instead.
    pub(crate) fn on_table_bytes_max(&mut self, bytes_max: usize) {
        if bytes_max < TABLE_BYTES_DEFAULT && !self.is_tableless {
            self.is_tableless = true;
            self.size_update_due = true;
            self.inserted.clear();
            self.table_bytes = 0;
        }
    }

    /// Appends the block of `fields`. True when encoding the same fields again gives the same bytes,
    /// until another set of fields has been inserted: then `out` may be copied instead.
    pub(crate) fn encode(&mut self, fields: &[(&str, &str)], out: &mut Vec<u8>) -> bool {
        let mut is_repeatable = true;
        if std::mem::take(&mut self.size_update_due) {
            put_integer(out, 0x20, 5, 0);
            is_repeatable = false;
        }
        for &(name, value) in fields {
            if let Some(slot) = STATIC_TABLE.iter().position(|&entry| entry == (name, value)) {
                put_integer(out, 0x80, 7, slot + 1);
                continue;
            }
            if let Some(slot) = self.inserted.iter().position(|(n, v)| n == name && v == value) {
                put_integer(out, 0x80, 7, DYNAMIC_BASE + self.inserted.len() - 1 - slot);
                continue;
            }
            let entry_bytes = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            let is_inserted = !self.is_tableless && self.table_bytes + entry_bytes <= TABLE_BYTES_DEFAULT;
            let name_index = STATIC_TABLE.iter().position(|&(n, _)| n == name).map_or(0, |slot| slot + 1);
            let (pattern, prefix_bits) = if is_inserted { (0x40, 6) } else { (0, 4) };
            put_integer(out, pattern, prefix_bits, name_index);
            if name_index == 0 {
                put_string(out, name);
            }
            put_string(out, value);
            if is_inserted {
                self.inserted.push((name.to_owned(), value.to_owned()));
                self.table_bytes += entry_bytes;
                is_repeatable = false;
            }
        }
        is_repeatable
    }

    /// How many fields are in the table: a copied block is valid while this stands still.
    pub(crate) fn inserted_count(&self) -> usize {
        self.inserted.len()
    }
}

fn put_integer(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, value: usize) {
    let prefix_max = (1_u8 << prefix_bits) - 1;
    if let Ok(small) = u8::try_from(value)
        && small < prefix_max
    {
        out.push(pattern | small);
        return;
    }
    out.push(pattern | prefix_max);
    let mut rest = value - usize::from(prefix_max);
    loop {
        let low = u8::try_from(rest & 0x7F).expect("seven bits");
        rest >>= 7;
        out.push(if rest == 0 { low } else { low | 0x80 });
        if rest == 0 {
            return;
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;

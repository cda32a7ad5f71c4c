//! HPACK's Huffman code: from coded bytes to text.
//!
//! The code is canonical: codes of one length count upwards with their symbols, and shorter codes come
//! first. So the lengths are all that is kept of RFC 7541's appendix B; the rest follows from them while
//! compiling.
//!
//! Invariants: what is decoded is at most 8/5 of the coded bytes; nothing else is allocated.
//! Cost: a few comparisons a symbol; common symbols have the shortest codes, which are tried first.
//! Compatibility: RFC 7541 section 5.2, with its refusals: a code of the end mark, padding of eight bits
//! or more, padding with a zero.

use super::fault::HpackError;

/// Longest code.
const BITS_MAX: u32 = 30;

/// The symbol that ends a text, which no text contains.
const END: u16 = 256;

const SYMBOLS: usize = 257;

/// Bits of each symbol's code.
const BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct Length {
    bits: u32,
    /// The first code, its bits leading in 32.
    first: u64,
    /// The code behind the last one, likewise.
    end: u64,
    /// Where the symbols begin in `BY_CODE`.
    symbols: u16,
}

/// Lengths that occur.
const LENGTHS_COUNT: usize = {
    let (mut count, mut bits) = (0, 1);
    while bits <= BITS_MAX {
        count += (codes_of(bits) != 0) as usize;
        bits += 1;
    }
    count
};

const fn codes_of(bits: u32) -> u16 {
    let (mut count, mut symbol) = (0, 0);
    while symbol < SYMBOLS {
        count += (BITS[symbol] as u32 == bits) as u16;
        symbol += 1;
    }
    count
}

const LENGTHS: [Length; LENGTHS_COUNT] = {
    let mut lengths = [Length { bits: 0, first: 0, end: 0, symbols: 0 }; LENGTHS_COUNT];
    let (mut at, mut code, mut symbols, mut bits) = (0, 0_u64, 0_u16, 1);
    while bits <= BITS_MAX {
        let count = codes_of(bits);
        if count != 0 {
            let end = code + ((count as u64) << (32 - bits));
            lengths[at] = Length { bits, first: code, end, symbols };
            (at, code, symbols) = (at + 1, end, symbols + count);
        }
        bits += 1;
    }
    assert!(code == 1 << 32, "the code is complete");
    lengths
};

/// All symbols in the order of their codes.
const BY_CODE: [u16; SYMBOLS] = {
    let mut order = [0; SYMBOLS];
    let (mut at, mut bits) = (0, 1);
    while bits <= BITS_MAX {
        let mut symbol = 0_u16;
        while symbol <= END {
            if BITS[symbol as usize] as u32 == bits {
                order[at] = symbol;
                at += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    order
};

/// Appends what `coded` means to `text`.
pub(super) fn decode(coded: &[u8], text: &mut Vec<u8>) -> Result<(), HpackError> {
    // The last `held` bits of `bits` are not decoded yet. Fewer than 38: a code and a byte.
    let (mut bits, mut held) = (0_u64, 0);
    for &byte in coded {
        bits = bits << 8 | u64::from(byte);
        held += 8;
        while let Some((symbol, length)) = first_symbol(bits, held) {
            let Ok(character) = u8::try_from(symbol) else {
                debug_assert_eq!(symbol, END);
                return Err(HpackError);
            };
            text.push(character);
            held -= length;
        }
    }
    // Padding is the beginning of the end mark, which is all ones.
    let padding = (1 << held) - 1;
    if held < 8 && bits & padding == padding { Ok(()) } else { Err(HpackError) }
}

/// The first symbol of the last `held` bits and the length of its code, if all of it is there.
fn first_symbol(bits: u64, held: u32) -> Option<(u16, u32)> {
    if held < LENGTHS[0].bits {
        return None;
    }
    // Leading in 32 bits. What is not there yet is zero, and decides nothing below: the code that is
    // found then is longer than what there is, or does not reach it.
    let window = if held <= 32 { bits << (32 - held) } else { bits >> (held - 32) } & 0xffff_ffff;
    let length = LENGTHS.iter().find(|length| window < length.end)?;
    if held < length.bits {
        return None;
    }
    let nth = (window - length.first) >> (32 - length.bits);
    let nth = usize::try_from(nth).expect("fewer than 257 codes");
    Some((BY_CODE[usize::from(length.symbols) + nth], length.bits))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The code of each symbol by the definition of a canonical code, apart from the tables above.
    pub(in super::super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut order: Vec<usize> = (0..SYMBOLS).collect();
        order.sort_by_key(|&symbol| (BITS[symbol], symbol));
        let mut codes = [(0_u32, 0_u8); SYMBOLS];
        let (mut code, mut before) = (0, BITS[order[0]]);
        for symbol in order {
            code <<= BITS[symbol] - before;
            before = BITS[symbol];
            codes[symbol] = (code, before);
            code = code.wrapping_add(1);
        }
        let mut bits: Vec<bool> = Vec::new();
        for &byte in text {
            let (code, length) = codes[usize::from(byte)];
            bits.extend((0..length).rev().map(|at| code >> at & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut text = Vec::new();
        decode(coded, &mut text).map(|()| text)
    }

    #[test]
    fn examples_of_the_rfc_are_decoded() {
        let examples: [(&[u8], &[u8]); 4] = [
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", b"www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", b"no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", b"custom-key"),
            (
                b"\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3",
                b"https://www.example.com",
            ),
        ];
        for (coded, text) in examples {
            assert_eq!(decoded(coded).as_deref(), Ok(text));
            assert_eq!(encode(text), coded);
        }
    }

    #[test]
    fn every_pair_of_symbols_is_decoded() {
        for first in 0..=255 {
            for second in 0..=255 {
                let text = [first, second, b'a'];
                assert_eq!(decoded(&encode(&text)).as_deref(), Ok(&text[..]));
            }
        }
    }

    #[test]
    fn end_mark_and_wrong_padding_are_refused() {
        // 'a' is 00011.
        assert_eq!(decoded(b"\x1f").as_deref(), Ok(&b"a"[..]));
        for wrong in [&b"\x1e"[..], b"\x18", b"\x1f\xff", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfc"] {
            assert_eq!(decoded(wrong), Err(HpackError), "{wrong:x?}");
        }
    }
}

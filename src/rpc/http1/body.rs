//! The body of a request, taken out of its framing as it comes.
//!
//! Bounds: `LINE_BYTES_MAX` of a chunk's line and of each line of the trailer; `WASTE_BYTES_MAX` of all that is no
//! data, beyond what honest chunks cost, so that a body of tiny chunks with long lines does not go on for ever.

use super::head::Length;

/// A chunk's size and extensions, or a line of the trailer.
const LINE_BYTES_MAX: usize = 4096;

/// Bytes that are no data.
const WASTE_BYTES_MAX: u64 = 16 * 1024;

/// What a chunk may cost besides its data without being counted.
const CHUNK_COST_BYTES: u64 = 16;

/// Why a body cannot be read. The connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("invalid chunk")]
    Chunk,
    #[error("chunked encoding contains too much that is no data")]
    Waste,
}

/// Where in a body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In data of which so many bytes follow. If it is a chunk's, its end of line follows.
    Data {
        rest: u64,
        is_chunk: bool,
    },
    /// In the size of a chunk.
    Size {
        size: u64,
        digits: u32,
    },
    /// Behind the size, in extensions.
    Extension {
        size: u64,
    },
    /// Behind the carriage return of a size's line.
    SizeEnd {
        size: u64,
    },
    /// Behind a chunk's data.
    DataEnd {
        has_return: bool,
    },
    /// In a line of the trailer that has so many bytes so far.
    Trailer {
        bytes: usize,
        has_return: bool,
    },
    End,
}

/// Takes a body out of its framing.
#[derive(Debug, Clone)]
pub struct Decoder {
    at: At,
    line_bytes: usize,
    waste_bytes: u64,
}

impl Decoder {
    /// At the beginning of a body.
    #[must_use]
    pub fn new(length: Length) -> Self {
        let at = match length {
            Length::Exact(0) => At::End,
            Length::Exact(rest) => At::Data { rest, is_chunk: false },
            Length::Chunked => At::Size { size: 0, digits: 0 },
        };
        Self { at, line_bytes: 0, waste_bytes: 0 }
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.at == At::End
    }

    /// Bytes that are known to follow.
    #[must_use]
    pub fn announced(&self) -> u64 {
        match self.at {
            At::Data { rest, .. } => rest,
            _ => 0,
        }
    }

    /// Takes framing and data off the front of `bytes`, up to the body's end, and gives the data to `sink`.
    ///
    /// # Errors
    /// The framing is broken.
    pub fn decode(&mut self, bytes: &mut &[u8], sink: &mut impl FnMut(&[u8])) -> Result<(), BodyError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let At::Data { rest, is_chunk } = self.at {
                let n = usize::try_from(rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
                sink(&bytes[..n]);
                *bytes = &bytes[n..];
                let rest = rest - n as u64;
                self.at = match (rest, is_chunk) {
                    (0, false) => At::End,
                    (0, true) => At::DataEnd { has_return: false },
                    _ => At::Data { rest, is_chunk },
                };
                continue;
            }
            if self.at == At::End {
                return Ok(());
            }
            *bytes = rest;
            self.take(byte)?;
        }
        Ok(())
    }

    /// Takes a byte that is no data.
    fn take(&mut self, byte: u8) -> Result<(), BodyError> {
        self.waste_bytes += 1;
        self.line_bytes += 1;
        if LINE_BYTES_MAX < self.line_bytes || WASTE_BYTES_MAX < self.waste_bytes {
            return Err(BodyError::Waste);
        }
        self.at = match (self.at, byte) {
            (At::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = (byte as char).to_digit(16).expect("it is one");
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { digits: 0, .. }, _) => return Err(BodyError::Chunk),
            (At::Size { size, .. } | At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Size { size, .. }, b';' | b' ' | b'\t') => At::Extension { size },
            (At::Extension { size }, byte) if byte != b'\n' => At::Extension { size },
            (At::SizeEnd { size: 0 }, b'\n') => self.line(At::Trailer { bytes: 0, has_return: false }),
            (At::SizeEnd { size }, b'\n') => {
                self.waste_bytes = self.waste_bytes.saturating_sub(CHUNK_COST_BYTES + size);
                self.line(At::Data { rest: size, is_chunk: true })
            }
            (At::DataEnd { has_return: false }, b'\r') => At::DataEnd { has_return: true },
            (At::DataEnd { has_return: true }, b'\n') => self.line(At::Size { size: 0, digits: 0 }),
            (At::Trailer { bytes: 0, has_return: true }, b'\n') => At::End,
            (At::Trailer { has_return: true, .. }, b'\n') => {
                self.line(At::Trailer { bytes: 0, has_return: false })
            }
            (At::Trailer { bytes, has_return: false }, b'\r') => At::Trailer { bytes, has_return: true },
            (At::Trailer { bytes, has_return: false }, byte) if byte != b'\n' => {
                At::Trailer { bytes: bytes + 1, has_return: false }
            }
            _ => return Err(BodyError::Chunk),
        };
        Ok(())
    }

    /// A line is over.
    fn line(&mut self, at: At) -> At {
        self.line_bytes = 0;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of `size`; what follows the body, if it ended.
    fn decode(length: Length, text: &[u8], size: usize) -> Result<(Vec<u8>, Option<Vec<u8>>), BodyError> {
        let (mut decoder, mut data, mut rest) = (Decoder::new(length), Vec::new(), Vec::new());
        for piece in text.chunks(size) {
            let mut piece = piece;
            decoder.decode(&mut piece, &mut |bytes| data.extend_from_slice(bytes))?;
            rest.extend_from_slice(piece);
        }
        Ok((data, decoder.is_over().then_some(rest)))
    }

    #[test]
    fn body_is_the_same_however_it_is_cut_and_leaves_the_next_request_alone() {
        let next = b"GET /".to_vec();
        let chunked = b"5\r\nhello\r\n00A;ext=\"v\"\r\n, worldly!\r\n1 \r\n!\r\n0\r\nTrailer: x\r\n\r\nGET /";
        for size in 1..=chunked.len() {
            let decoded = decode(Length::Chunked, chunked, size).unwrap();
            assert_eq!(decoded, (b"hello, worldly!!".to_vec(), Some(next.clone())), "{size}");
            let plain = decode(Length::Exact(5), b"helloGET /", size).unwrap();
            assert_eq!(plain, (b"hello".to_vec(), Some(next.clone())), "{size}");
        }
        assert_eq!(decode(Length::Exact(0), b"GET /", 9), Ok((Vec::new(), Some(next))));
        assert_eq!(decode(Length::Exact(9), b"hello", 9), Ok((b"hello".to_vec(), None)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        for text in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\nx",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\rhello",
            b"5\r\nhello5\r\n",
            b"5\r\nhello\n",
            b"11111111111111111\r\n",
            b"1;a\nb\r\n",
            b"0\r\n\n",
            b"0\r\nA: b\n\r\n",
        ] {
            assert_eq!(decode(Length::Chunked, text, 3), Err(BodyError::Chunk), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn body_of_framing_alone_is_refused_and_one_of_single_bytes_is_not() {
        let honest = b"1\r\nx\r\n".repeat(100_000);
        assert_eq!(decode(Length::Chunked, &honest, 1000).unwrap().0.len(), 100_000);
        let padded = [&b"1;"[..], &[b'a'; 100], b"\r\nx\r\n"].concat().repeat(1_000);
        assert_eq!(decode(Length::Chunked, &padded, 1000), Err(BodyError::Waste));
        let trailer = [&b"0\r\n"[..], &b"a: b\r\n".repeat(10_000)].concat();
        assert_eq!(decode(Length::Chunked, &trailer, 1000), Err(BodyError::Waste));
        assert_eq!(decode(Length::Chunked, &[b'0'; 20], 1000), Err(BodyError::Chunk));
    }
}

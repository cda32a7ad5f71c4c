//! A stream of requests, cut into its messages: JSON objects one behind the other.
//!
//! Only brackets and strings are looked at. What lies between the outer brackets is for `read` to judge.
//!
//! Bounds: `message_bytes_max` of a message that is not whole.
//! Cost: each byte is looked at once.

use std::collections::VecDeque;

/// Why a stream cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("invalid character {:?} looking for beginning of value", *.0 as char)]
    NoObject(u8),
    #[error("unexpected end of JSON input")]
    Unfinished,
    #[error("a message has more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
}

/// Cuts a stream. See the module.
#[derive(Debug)]
pub struct Splitter {
    message_bytes_max: usize,
    /// The message that is not whole yet.
    rest: Vec<u8>,
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    whole: VecDeque<Vec<u8>>,
    whole_bytes: usize,
}

impl Splitter {
    /// Cuts into messages of at most so many bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            rest: Vec::new(),
            depth: 0,
            in_string: false,
            is_escaped: false,
            whole: VecDeque::new(),
            whole_bytes: 0,
        }
    }

    /// Bytes that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole_bytes + self.rest.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a whole message is held.
    #[must_use]
    pub fn has_whole(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Takes more of the stream in.
    ///
    /// # Errors
    /// Something that is no object, or one that is too large.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SplitError> {
        let mut start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' if 0 < self.depth => self.depth += 1,
                b'"' if 0 < self.depth => self.in_string = true,
                b'}' | b']' if 0 < self.depth => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.hold(&bytes[start..=at])?;
                        let message = std::mem::take(&mut self.rest);
                        self.whole_bytes += message.len();
                        self.whole.push_back(message);
                        start = at + 1;
                    }
                }
                _ if 0 < self.depth => {}
                b'{' => {
                    self.depth = 1;
                    start = at;
                }
                byte if byte.is_ascii_whitespace() => start = at + 1,
                byte => return Err(SplitError::NoObject(byte)),
            }
        }
        if 0 < self.depth { self.hold(&bytes[start..]) } else { Ok(()) }
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), SplitError> {
        if self.message_bytes_max < self.rest.len() + bytes.len() {
            return Err(SplitError::TooLarge { bytes_max: self.message_bytes_max });
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let message = self.whole.pop_front()?;
        self.whole_bytes -= message.len();
        Some(message)
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// A message has begun.
    pub fn finish(&self) -> Result<(), SplitError> {
        if self.depth == 0 { Ok(()) } else { Err(SplitError::Unfinished) }
    }
}

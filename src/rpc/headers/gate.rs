//! Frames that carry header blocks, between a client's socket and the HTTP/2 decoder.
//!
//! Bytes go by in the pieces in which they were read. A block that lies whole in one piece, in one frame, is
//! looked at where it lies; one that does not is held until it ends. Everything else passes at once.
//!
//! Invariants: what is passed on are whole frames or beginnings of them in the client's order. Frames that
//! break the protocol pass as they are: the decoder ends the connection for them. At most `bytes_max` of a
//! block, one frame and one field are held.
//! Cost: O(1) a frame that carries no block; see `block` for the others.

use std::collections::VecDeque;
use std::rc::Rc;

use super::block::{BlockKind, Blocks, Note, Reading, Recoded, Refusal, Skim, Spared};
use super::credential::Credential;
use super::fault::{Fault, HEADERS_BYTES_ABUSE};

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;

/// Largest payload of a frame: the protocol's default, which is what the decoder behind takes.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const FLAG_END_STREAM: u8 = 0x1;
const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// Bytes of a HEADERS frame's priority: a stream it depends on, and a weight.
const PRIORITY_BYTES: usize = 5;

/// Bytes of blocks written anew in one call after which it returns, so that a few bytes of a client that
/// mean many do not all become that at once.
const RECODED_BYTES_MAX: usize = 64 * 1024;

/// Frames that a block may have beside those that its size asks for. Clients fill them: two of them are
/// 16 KiB at least, by which more are allowed.
const FRAMES_SPARE: usize = 16;

/// Notes that wait for their requests. Whoever reads for a connection passes no more requests before it takes those
/// that are there: one that lost its note would be served as what was put in its place.
pub const NOTES_MAX: usize = 4608;

/// Bytes of the smallest frame that begins a request.
pub const REQUEST_BYTES_MIN: usize = HEAD_BYTES + 1;

#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    /// Whether this starts a block that the decoder would read.
    fn starts_block(&self) -> bool {
        self.kind == HEADERS && self.stream != 0 && self.length <= FRAME_BYTES_MAX
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Where the block begins in the payload of a HEADERS frame, and where it ends. None: the payload is too
    /// short for what its head says.
    fn block_of(&self, payload: &[u8]) -> Option<(usize, usize)> {
        let padded = usize::from(self.has(FLAG_PADDED));
        let start = padded + if self.has(FLAG_PRIORITY) { PRIORITY_BYTES } else { 0 };
        let padding = if padded == 0 { 0 } else { usize::from(*payload.first()?) };
        let end = payload.len().checked_sub(padding)?;
        (start <= end).then_some((start, end))
    }

    /// Whether the stream depends on itself, for which the decoder would leave the block unread.
    fn depends_on_itself(&self, payload: &[u8]) -> bool {
        let at = usize::from(self.has(FLAG_PADDED));
        let depends = self.has(FLAG_PRIORITY).then(|| payload.get(at..at + 4)).flatten();
        let on = depends.and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
        on.is_some_and(|on| on & 0x7fff_ffff == self.stream)
    }
}

/// A block that has begun.
#[derive(Debug)]
struct Held {
    stream: u32,
    role: BlockKind,
    /// END_STREAM, or nothing.
    end_stream: u8,
    /// The block so far, without the frames around it, and the frame at hand as it comes.
    block: Vec<u8>,
    /// The frame at hand.
    head: Head,
    frame_start: usize,
    frame_left: usize,
    /// Bytes and frames of the block in all.
    bytes: usize,
    frames: usize,
    skim: Option<Skim>,
}

/// What was kept of a request when its headers went to the decoder.
#[derive(Debug, Default)]
pub struct Aside {
    pub note: Option<Note>,
    /// What says who calls. Then no header that the decoder got does.
    pub credential: Option<Rc<Credential>>,
}

/// Follows the bytes of one direction of a connection, after its preface.
#[derive(Debug)]
pub struct Gate {
    blocks: Blocks,
    head: [u8; HEAD_BYTES],
    head_filled: usize,
    /// Payload bytes still to come of a frame that passes.
    left: usize,
    held: Option<Box<Held>>,
    /// The highest stream that was opened.
    last_stream: u32,
    notes: VecDeque<(u32, Note)>,
    fault: Option<Fault>,
}

impl Gate {
    /// A gate for a new connection. Blocks of more than `bytes_max` are refused, as
    /// `SETTINGS_MAX_HEADER_LIST_SIZE` counts them.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        assert!(bytes_max <= HEADERS_BYTES_ABUSE, "{bytes_max} are more than is taken for an attack");
        Self {
            blocks: Blocks::new(bytes_max),
            head: [0; HEAD_BYTES],
            head_filled: 0,
            left: 0,
            held: None,
            last_stream: 0,
            notes: VecDeque::new(),
            fault: None,
        }
    }

    /// The same gate, which spares the decoder these fields. Who calls is told by `take_aside` then.
    #[must_use]
    pub fn sparing(mut self, spared: Spared) -> Self {
        self.blocks.spare(spared);
        self
    }

    /// Why the connection has to end. Nothing passes any more.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// A header block has begun and not ended.
    #[must_use]
    pub fn is_inside_block(&self) -> bool {
        self.held.is_some()
    }

    /// Memory that holds the beginning of a block.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.block.capacity())
    }

    /// There is no memory for the block that has begun: its call will be refused.
    pub fn refuse_held(&mut self) {
        if let Some(held) = &mut self.held
            && held.skim.is_none()
        {
            held.skim = Some(self.blocks.start_skim(Refusal::NoMemory));
        }
    }

    /// What was kept of the request on `stream`, which the decoder has passed on. Requests come in the order of their
    /// streams.
    pub fn take_aside(&mut self, stream: u32) -> Aside {
        Aside { note: self.take_note(stream), credential: self.blocks.credential_of(stream) }
    }

    /// What has to be known of the request on `stream` as `take_aside` gives it.
    pub fn take_note(&mut self, stream: u32) -> Option<Note> {
        while let Some((first, _)) = self.notes.front()
            && *first <= stream
        {
            let (of, note) = self.notes.pop_front().expect("there is a first one");
            if of == stream {
                return Some(note);
            }
        }
        None
    }

    /// Passes `bytes` on to `out` and returns how many it took: all, unless so much was written anew that
    /// `out` should be emptied first.
    pub fn pass(&mut self, bytes: &[u8], out: &mut impl FnMut(&[u8])) -> usize {
        let (mut at, mut recoded_bytes) = (0, 0);
        // Where the bytes begin that pass as they are and are not passed on yet.
        let mut run = 0;
        while at < bytes.len() {
            if self.fault.is_some() {
                return bytes.len();
            }
            if RECODED_BYTES_MAX <= recoded_bytes {
                break;
            }
            if 0 < self.left {
                let passed = self.left.min(bytes.len() - at);
                self.left -= passed;
                at += passed;
                continue;
            }
            if self.is_inside_frame_of_block() {
                debug_assert_eq!(run, at, "what came before the block was passed on");
                at += self.hold(&bytes[at..], out, &mut recoded_bytes);
                run = at;
                continue;
            }
            let rest = &bytes[at..];
            let head = match rest.first_chunk() {
                Some(head) if self.head_filled == 0 => {
                    let head = Head::parse(head);
                    if !head.starts_block() && self.held.is_none() {
                        self.left = head.length;
                        at += HEAD_BYTES;
                        continue;
                    }
                    let end = HEAD_BYTES + head.length;
                    if self.held.is_none() && head.has(FLAG_END_HEADERS) && end <= rest.len() {
                        let whole = self.read_whole(&head, &rest[HEAD_BYTES..end]);
                        if !matches!(whole, Whole::AsItIs) || self.fault.is_some() {
                            out(&bytes[run..at]);
                            run = at + end;
                        }
                        if self.fault.is_some() {
                            return bytes.len();
                        }
                        match whole {
                            Whole::AsItIs => {}
                            Whole::Shorter => put_frames(&head, self.blocks.shorter(), out),
                            Whole::Anew(block) => {
                                recoded_bytes += block.len();
                                put_frames(&head, &block, out);
                            }
                        }
                        at += end;
                        continue;
                    }
                    out(&bytes[run..at]);
                    at += HEAD_BYTES;
                    head
                }
                _ => {
                    if self.head_filled == 0 {
                        out(&bytes[run..at]);
                    }
                    let passed = (HEAD_BYTES - self.head_filled).min(rest.len());
                    self.head[self.head_filled..self.head_filled + passed].copy_from_slice(&rest[..passed]);
                    self.head_filled += passed;
                    at += passed;
                    run = at;
                    if self.head_filled < HEAD_BYTES {
                        continue;
                    }
                    self.head_filled = 0;
                    Head::parse(&self.head)
                }
            };
            run = at;
            self.start_frame(head, out, &mut recoded_bytes);
        }
        out(&bytes[run..at]);
        at
    }

    #[cfg(test)]
    pub(super) fn last_stream_for_tests(&self) -> u32 {
        self.last_stream
    }

    /// Memory that the tables take.
    #[cfg(test)]
    pub(super) fn bytes_for_tests(&self) -> usize {
        self.blocks.bytes()
    }

    fn is_inside_frame_of_block(&self) -> bool {
        self.held.as_ref().is_some_and(|held| 0 < held.frame_left)
    }

    /// A frame whose head was taken starts a block, goes on with one, or passes.
    fn start_frame(&mut self, head: Head, out: &mut impl FnMut(&[u8]), recoded_bytes: &mut usize) {
        let goes_on = self.held.as_ref().is_some_and(|held| {
            head.kind == CONTINUATION && head.stream == held.stream && head.length <= FRAME_BYTES_MAX
        });
        if goes_on {
            let held = self.held.as_mut().expect("it goes on");
            (held.head, held.frame_start, held.frame_left) = (head, held.block.len(), head.length);
        } else if self.held.is_none() && head.starts_block() {
            self.held = Some(Box::new(Held {
                stream: head.stream,
                role: self.role_on(head.stream),
                end_stream: head.flags & FLAG_END_STREAM,
                block: Vec::new(),
                head,
                frame_start: 0,
                frame_left: head.length,
                bytes: 0,
                frames: 0,
                skim: None,
            }));
        } else {
            if let Some(held) = self.held.take() {
                // No frame may come between: the decoder has to see that one does.
                let unfinished = Head { length: 0, kind: HEADERS, flags: 0, stream: held.stream };
                put_head(&unfinished, out);
            }
            put_head(&head, out);
            self.left = head.length;
            return;
        }
        if head.length == 0 {
            self.end_frame(out, recoded_bytes);
        }
    }

    /// Holds the next bytes of a block's frame. Returns how many.
    fn hold(&mut self, bytes: &[u8], out: &mut impl FnMut(&[u8]), recoded_bytes: &mut usize) -> usize {
        let held = self.held.as_mut().expect("there is a block");
        let taken = held.frame_left.min(bytes.len());
        held.frame_left -= taken;
        held.block.extend_from_slice(&bytes[..taken]);
        if held.frame_left == 0 {
            self.end_frame(out, recoded_bytes);
        }
        taken
    }

    /// The last byte of a block's frame has come.
    fn end_frame(&mut self, out: &mut impl FnMut(&[u8]), recoded_bytes: &mut usize) {
        let mut held = self.held.take().expect("it was a block's frame");
        let head = held.head;
        if head.kind == HEADERS {
            let Some((start, end)) = head.block_of(&held.block) else {
                put_head(&head, out);
                out(&held.block);
                return;
            };
            held.block.truncate(end);
            held.block.drain(..start);
        }
        held.bytes += held.block.len() - held.frame_start.min(held.block.len());
        held.frames += 1;
        let done = self.go_on(&mut held, head.has(FLAG_END_HEADERS));
        match done {
            Err(fault) => self.fault = Some(fault),
            Ok(false) => self.held = Some(held),
            Ok(true) => match self.finish(&mut held) {
                Err(fault) => self.fault = Some(fault),
                Ok(is_recoded) => {
                    *recoded_bytes += if is_recoded { held.block.len() } else { 0 };
                    let head = Head { length: 0, kind: HEADERS, flags: held.end_stream, stream: held.stream };
                    put_frames(&head, &held.block, out);
                }
            },
        }
    }

    /// Follows a block that is too large. Whether it has ended.
    fn go_on(&mut self, held: &mut Held, has_ended: bool) -> Result<bool, Fault> {
        let frames_max = FRAMES_SPARE + 2 * held.bytes / FRAME_BYTES_MAX;
        if HEADERS_BYTES_ABUSE < held.bytes || frames_max < held.frames {
            return Err(Fault::Flood);
        }
        if held.skim.is_none() && self.blocks.bytes_max() < held.block.len() {
            held.skim = Some(self.blocks.start_skim(Refusal::TooLarge));
        }
        if let Some(skim) = &mut held.skim {
            self.blocks.skim(skim, &mut held.block)?;
            held.block.shrink_to(2 * FRAME_BYTES_MAX);
        }
        Ok(has_ended)
    }

    /// The block is there: it stays as it is, or becomes what it is written as. Whether it is written anew.
    fn finish(&mut self, held: &mut Held) -> Result<bool, Fault> {
        let Recoded { block, note } = match &held.skim {
            Some(skim) => self.blocks.finish_skim(skim, &held.block, held.role, held.stream)?,
            None => match self.blocks.read(&held.block, held.role, held.stream)? {
                Reading::AsItIs => return Ok(false),
                Reading::Shorter => {
                    held.block.clear();
                    held.block.extend_from_slice(self.blocks.shorter());
                    return Ok(false);
                }
                Reading::Anew(recoded) => recoded,
            },
        };
        held.block = block;
        self.note(held.stream, note);
        Ok(true)
    }

    /// Looks at a block that lies whole in a HEADERS frame.
    fn read_whole(&mut self, head: &Head, payload: &[u8]) -> Whole {
        let role = self.role_on(head.stream);
        // Too short a frame passes: the decoder ends the connection for it.
        let Some((start, end)) = head.block_of(payload) else { return Whole::AsItIs };
        let block = &payload[start..end];
        match self.blocks.read(block, role, head.stream) {
            Ok(Reading::Anew(Recoded { block, note })) => {
                self.note(head.stream, note);
                Whole::Anew(block)
            }
            Ok(Reading::Shorter) => Whole::Shorter,
            Ok(Reading::AsItIs) if head.depends_on_itself(payload) => Whole::Anew(block.to_vec()),
            Ok(Reading::AsItIs) => Whole::AsItIs,
            Err(fault) => {
                self.fault = Some(fault);
                Whole::AsItIs
            }
        }
    }

    /// What a block on `stream` is: the first one opens it.
    fn role_on(&mut self, stream: u32) -> BlockKind {
        if stream <= self.last_stream {
            return BlockKind::Trailers;
        }
        self.last_stream = stream;
        BlockKind::Request
    }

    fn note(&mut self, stream: u32, note: Option<Note>) {
        let Some(note) = note else { return };
        if NOTES_MAX <= self.notes.len() {
            // Its request was not among those taken: the decoder has refused that stream by itself.
            self.notes.pop_front();
        }
        self.notes.push_back((stream, note));
    }
}

/// What a block that lies whole in a frame passes as.
enum Whole {
    AsItIs,
    /// As what `Blocks::shorter` gives.
    Shorter,
    Anew(Vec<u8>),
}

fn put_head(head: &Head, out: &mut impl FnMut(&[u8])) {
    let length = u32::try_from(head.length).expect("it has three bytes").to_be_bytes();
    let stream = head.stream.to_be_bytes();
    let [_, l0, l1, l2] = length;
    let [s0, s1, s2, s3] = stream;
    out(&[l0, l1, l2, head.kind, head.flags, s0, s1, s2, s3]);
}

/// Passes a block on in as few frames as can be, with `head`'s stream and END_STREAM.
fn put_frames(head: &Head, block: &[u8], out: &mut impl FnMut(&[u8])) {
    let mut kind = HEADERS;
    let mut flags = head.flags & FLAG_END_STREAM;
    let mut rest = block;
    loop {
        let (payload, behind) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
        rest = behind;
        if rest.is_empty() {
            flags |= FLAG_END_HEADERS;
        }
        put_head(&Head { length: payload.len(), kind, flags, stream: head.stream }, out);
        out(payload);
        if rest.is_empty() {
            return;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

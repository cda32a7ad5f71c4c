//! Header blocks: which may pass as they are, and what the others become.
//!
//! A block is read once and nothing is written while all of its fields are plain. Where one is not, the
//! table is put back to the block's beginning and the block is read again and written anew, in literals
//! that no table keeps.
//!
//! A plain block passes without the fields that it names by an index and that the decoder need not make anything of: what
//! nobody reads, and who calls (`credential`). Whatever changes a table stays, so both tables do.
//!
//! The decoder behind has a dynamic table too. As long as blocks pass as they are it holds what the
//! client's encoder means. A block that is written anew inserts nothing there, so from the first such block
//! that inserts something the two differ, and every later block of the connection is written anew: a client
//! whose blocks have to be rewritten pays for it, in the order of a microsecond a call, and no other does.
//! To insert the same entries instead would be cheaper for that client, but some cannot be inserted without
//! being a field of the call as well (an empty `:authority`, a second `:path`).
//!
//! Invariants: the table is the client's encoder's after each block, however the block was answered.
//! Cost: a plain field that is in a table costs a look-up; a plain literal is read and, if it is to be
//! kept, copied into the table.

use std::rc::Rc;

use super::class::{Class, Kind};
use super::credential::{Credential, Credentials};
use super::fault::{Fault, HEADERS_BYTES_ABUSE, HpackError};
use super::field::{self, Field, Incomplete, Missing, Name};
use super::table::{ENTRY_OVERHEAD_BYTES, Known, Mark, TABLE_BYTES_MAX, Table};
use crate::rpc::{Code, Status};

/// A field of a block whose content is of no interest is skipped piece by piece from this size on. Its
/// value is at least 5/8 as long when it is decoded, more than a table holds.
const SKIPPED_FIELD_BYTES_MIN: usize = 8 * 1024;
const _: () = assert!(TABLE_BYTES_MAX <= SKIPPED_FIELD_BYTES_MIN * 8 / 15);

/// Fields of a block at most. The map that the decoder puts them into holds 24,576.
const FIELDS_MAX: usize = 16 * 1024;

/// An authority, `te`, `user-agent`, one of encodings, and who calls.
const SPARE_FIELDS_MAX: usize = 6;

/// Characters of a client's text that it is told again.
const QUOTED_BYTES_MAX: usize = 256;

/// Metadata of one field that is taken into scratch space without keeping the space.
const SCRATCH_BYTES_MAX: usize = 1024;

/// Indices of the static table.
const GET: u8 = 0x80 | 2;
const POST: u8 = 0x80 | 3;
const ROOT: u8 = 0x80 | 4;
const PLAIN_SCHEME: u8 = 0x80 | 6;
/// A literal that no table keeps, with the name of this index.
const PATH_LITERAL: u8 = 4;
/// The same with a name spelled out.
const LITERAL: u8 = 0;

/// Which blocks there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    Request,
    Trailers,
}

/// What was seen of a block's fields.
#[derive(Debug, Default)]
struct Seen {
    method: bool,
    scheme: bool,
    path: bool,
    authority: bool,
    protocol: bool,
    host: bool,
    /// A field that is not a pseudo-header, behind which none may come.
    regular: bool,
    bytes: usize,
    fields: usize,
}

/// What is wrong with a field where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misplaced {
    Repeated,
    BehindRegular,
    InTrailers,
}

impl Seen {
    /// Counts a field of so many bytes. False: they are too many.
    fn count(&mut self, bytes: usize, bytes_max: usize) -> bool {
        self.bytes += bytes;
        self.fields += 1;
        self.bytes <= bytes_max && self.fields <= FIELDS_MAX
    }

    fn note(&mut self, kind: Kind, role: BlockKind) -> Result<(), Misplaced> {
        let slot = match kind {
            Kind::Method => &mut self.method,
            Kind::Scheme => &mut self.scheme,
            Kind::Path => &mut self.path,
            Kind::Authority => &mut self.authority,
            Kind::Protocol => &mut self.protocol,
            Kind::Host => {
                self.regular = true;
                let repeated = std::mem::replace(&mut self.host, true);
                return if repeated { Err(Misplaced::Repeated) } else { Ok(()) };
            }
            Kind::Ignored
            | Kind::Unread
            | Kind::Credential
            | Kind::Connection
            | Kind::Regular
            | Kind::BadName
            | Kind::BadValue => {
                self.regular = true;
                return Ok(());
            }
        };
        if std::mem::replace(slot, true) {
            return Err(Misplaced::Repeated);
        }
        if self.regular {
            return Err(Misplaced::BehindRegular);
        }
        if role == BlockKind::Trailers { Err(Misplaced::InTrailers) } else { Ok(()) }
    }

    /// Nothing is missing that the decoder behind asks for.
    fn is_whole(&self, role: BlockKind) -> bool {
        role == BlockKind::Trailers || (self.method && self.scheme && self.path)
    }
}

/// Reads the header blocks of one direction of a connection.
#[derive(Debug)]
pub(super) struct Blocks {
    table: Table,
    /// The decoder behind does not have the same table any more.
    is_detached: bool,
    /// Bytes of a block's fields at most, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts them.
    bytes_max: usize,
    spared: Spared,
    credentials: Credentials,
    name: Vec<u8>,
    value: Vec<u8>,
    /// The last block, without the fields that were left out.
    shorter: Vec<u8>,
}

/// Fields of requests that the decoder need not see where an index names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spared {
    Nothing,
    /// Those that nobody reads, and who calls.
    Unread,
    /// Where only gRPC is served, whoever is meant.
    UnreadAndAuthority,
}

/// What becomes of a block.
pub(super) enum Reading {
    /// It passes as it is.
    AsItIs,
    /// What `Blocks::shorter` gives passes in its place.
    Shorter,
    Anew(Recoded),
}

/// Fields of a plain block that the decoder need not see, each of one byte.
#[derive(Default)]
struct Spare {
    /// Where they stand, in order, the one that says who calls not among them.
    fields: [usize; SPARE_FIELDS_MAX + 1],
    count: usize,
    /// Fields that say who calls, whether they are spare or not.
    credentials: usize,
    /// Where the last of them stands that an index names, and its place in the table.
    credential: Option<(usize, usize)>,
}

impl Spare {
    /// Adds the field at `at`, if there is room.
    fn add(&mut self, at: usize) {
        if self.count < SPARE_FIELDS_MAX {
            self.fields[self.count] = at;
            self.count += 1;
        }
    }

    /// Adds the one that says who calls, for which there always is room.
    fn add_credential(&mut self, at: usize) {
        let before = self.fields[..self.count].partition_point(|field| *field < at);
        self.fields.copy_within(before..self.count, before + 1);
        self.fields[before] = at;
        self.count += 1;
    }
}

/// What a request said that the decoder would not take, in parts that it does not get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// `:method`, where it is not POST.
    pub method: Option<String>,
    /// `:path`, where it can be no method's.
    pub path: Option<String>,
    /// The request is answered with this, before everything else.
    pub refusal: Option<Status>,
}

/// A block that is written anew.
pub(super) struct Recoded {
    pub(super) block: Vec<u8>,
    /// What whoever answers the request has to know besides.
    pub(super) note: Option<Note>,
}

/// A block of which only the table's changes are followed, since it is refused.
#[derive(Debug)]
pub(super) struct Skim {
    mark: Mark,
    has_fields: bool,
    /// Bytes of the fields so far, as for a block that is read.
    bytes: usize,
    /// Bytes of a value still to come.
    skipped: usize,
    why: Refusal,
}

/// Why a block is refused whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLarge,
    NoMemory,
}

impl Blocks {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            table: Table::new(),
            is_detached: false,
            bytes_max,
            spared: Spared::Nothing,
            credentials: Credentials::default(),
            name: Vec::new(),
            value: Vec::new(),
            shorter: Vec::new(),
        }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// From now on the decoder is spared these fields.
    pub(super) fn spare(&mut self, spared: Spared) {
        self.spared = spared;
    }

    /// What `Reading::Shorter` stands for, until the next block is read.
    pub(super) fn shorter(&self) -> &[u8] {
        &self.shorter
    }

    /// What was left out of the request on `stream` that says who calls.
    pub(super) fn credential_of(&mut self, stream: u32) -> Option<Rc<Credential>> {
        self.credentials.of(stream)
    }

    /// Reads a whole block of `stream`.
    pub(super) fn read(&mut self, block: &[u8], role: BlockKind, stream: u32) -> Result<Reading, Fault> {
        self.table.settle();
        let mark = self.table.mark();
        if !self.is_detached {
            if let Some(spare) = self.look(block, role)? {
                return Ok(match role {
                    BlockKind::Request => self.shorten(block, spare, stream),
                    BlockKind::Trailers => Reading::AsItIs,
                });
            }
            self.table.rollback(&mark);
        }
        if role == BlockKind::Request {
            self.credentials.keep(stream);
        }
        let recoded = self.recode(block, role)?;
        self.is_detached |= self.table.has_changed_since(&mark);
        if SCRATCH_BYTES_MAX < self.name.capacity() + self.value.capacity() {
            (self.name, self.value) = (Vec::new(), Vec::new());
        }
        Ok(Reading::Anew(recoded))
    }

    /// Leaves out of a plain block what may be.
    fn shorten(&mut self, block: &[u8], mut spare: Spare, stream: u32) -> Reading {
        // Of two it is the call that has to choose.
        let left_out = spare.credential.filter(|(_, place)| {
            let (known, serial) = self.table.at(*place);
            spare.credentials == 1 && self.credentials.leave_out(stream, serial, &known)
        });
        match left_out {
            Some((at, _)) => spare.add_credential(at),
            None => self.credentials.keep(stream),
        }
        if spare.count == 0 {
            return Reading::AsItIs;
        }
        self.shorter.clear();
        let mut from = 0;
        for at in &spare.fields[..spare.count] {
            self.shorter.extend_from_slice(&block[from..*at]);
            from = at + 1;
        }
        self.shorter.extend_from_slice(&block[from..]);
        Reading::Shorter
    }

    /// What may be left out of a block that may pass. None: it may not, and was read up to where that is known.
    fn look(&mut self, block: &[u8], role: BlockKind) -> Result<Option<Spare>, HpackError> {
        let Self { table, name: name_scratch, value: value_scratch, spared, .. } = self;
        let (mut seen, mut spare) = (Seen::default(), Spare::default());
        let (mut at, mut has_fields) = (0, false);
        while let Some(&first) = block.get(at) {
            let (class, bytes) = if let 0x81..=0xfe = first {
                let index = usize::from(first & 0x7f);
                let (class, bytes) = table.peek(index)?;
                match (&spared, class.kind) {
                    (Spared::Nothing, _) => {}
                    (_, Kind::Ignored | Kind::Unread) | (Spared::UnreadAndAuthority, Kind::Authority) => {
                        spare.add(at);
                    }
                    (_, Kind::Credential) => {
                        spare.credential = table.place_of(index).map(|place| (at, place));
                    }
                    _ => {}
                }
                at += 1;
                (class, bytes)
            } else {
                let (field, length) = field::read(&block[at..])?;
                at += length;
                match field {
                    Field::Indexed(index) => table.peek(index)?,
                    Field::TableSize(_) if has_fields => return Err(HpackError),
                    Field::TableSize(max) => {
                        table.set_max(max)?;
                        continue;
                    }
                    Field::Literal { name, value, is_kept } => {
                        let name = match name {
                            Name::Text(text) => text.decode(name_scratch)?,
                            Name::Index(index) => named(table, index, name_scratch)?,
                        };
                        let value = value.decode(value_scratch)?;
                        let class = Class::of(name, value);
                        if is_kept {
                            table.insert(name, value, class);
                        }
                        (class, name.len() + value.len() + ENTRY_OVERHEAD_BYTES)
                    }
                }
            };
            has_fields = true;
            spare.credentials += usize::from(class.kind == Kind::Credential);
            if !class.is_plain || seen.note(class.kind, role).is_err() || !seen.count(bytes, self.bytes_max) {
                return Ok(None);
            }
        }
        Ok(seen.is_whole(role).then_some(spare))
    }

    fn recode(&mut self, block: &[u8], role: BlockKind) -> Result<Recoded, Fault> {
        let mut writing = Writing::new(role, self.bytes_max);
        let Self { table, name: name_scratch, value: value_scratch, .. } = self;
        let (mut at, mut has_fields) = (0, false);
        while at < block.len() {
            let (field, length) = field::read(&block[at..]).map_err(HpackError::from)?;
            at += length;
            match field {
                Field::Indexed(index) => {
                    let Known { name, value, class } = table.get(index)?;
                    writing.on_field(name, value, class)?;
                }
                Field::TableSize(_) if has_fields => return Err(HpackError.into()),
                Field::TableSize(max) => {
                    table.set_max(max)?;
                    continue;
                }
                Field::Literal { name, value, is_kept } => {
                    let name = match name {
                        Name::Text(text) => text.decode(name_scratch)?,
                        Name::Index(index) => named(table, index, name_scratch)?,
                    };
                    let value = value.decode(value_scratch)?;
                    let class = Class::of(name, value);
                    if is_kept {
                        table.insert(name, value, class);
                    }
                    writing.on_field(name, value, class)?;
                }
            }
            has_fields = true;
        }
        Ok(writing.finish())
    }

    /// Starts to follow a block that is refused.
    pub(super) fn start_skim(&mut self, why: Refusal) -> Skim {
        self.table.settle();
        Skim { mark: self.table.mark(), has_fields: false, bytes: 0, skipped: 0, why }
    }

    /// Follows the next bytes and takes them out of `bytes`, but for the beginning of a field.
    pub(super) fn skim(&mut self, skim: &mut Skim, bytes: &mut Vec<u8>) -> Result<(), Fault> {
        let Self { table, name: name_scratch, value: value_scratch, .. } = self;
        let mut at = skim.skipped.min(bytes.len());
        skim.skipped -= at;
        while at < bytes.len() {
            let (field, length) = match field::read(&bytes[at..]) {
                Ok(read) => read,
                Err(Missing::Malformed) => return Err(HpackError.into()),
                Err(Missing::Incomplete(Incomplete { bytes_min, is_exact, is_kept })) => {
                    if SKIPPED_FIELD_BYTES_MIN < bytes_min {
                        if !is_exact {
                            // No name is that long.
                            return Err(Fault::Flood);
                        }
                        skim.skipped = bytes_min - (bytes.len() - at);
                        skim.has_fields = true;
                        if is_kept {
                            table.clear();
                        }
                        at = bytes.len();
                    }
                    break;
                }
            };
            at += length;
            match field {
                Field::TableSize(_) if skim.has_fields => return Err(HpackError.into()),
                Field::TableSize(max) => {
                    table.set_max(max)?;
                    continue;
                }
                Field::Indexed(index) => skim.bytes += table.peek(index)?.1,
                Field::Literal { name, value, is_kept } => {
                    let name = match name {
                        Name::Text(text) => text.decode(name_scratch)?,
                        Name::Index(index) => named(table, index, name_scratch)?,
                    };
                    let value = value.decode(value_scratch)?;
                    skim.bytes += name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
                    if is_kept {
                        table.insert(name, value, Class::of(name, value));
                        // Nobody comes back to this block's beginning.
                        table.settle();
                    }
                }
            }
            if HEADERS_BYTES_ABUSE < skim.bytes {
                return Err(Fault::Flood);
            }
            skim.has_fields = true;
        }
        bytes.drain(..at);
        Ok(())
    }

    /// The block has ended; `left` is what `skim` left.
    pub(super) fn finish_skim(
        &mut self,
        skim: &Skim,
        left: &[u8],
        role: BlockKind,
        stream: u32,
    ) -> Result<Recoded, Fault> {
        if !left.is_empty() || skim.skipped != 0 {
            return Err(HpackError.into());
        }
        self.is_detached |= self.table.has_changed_since(&skim.mark);
        if role == BlockKind::Request {
            self.credentials.keep(stream);
        }
        let mut writing = Writing::new(role, self.bytes_max);
        writing.refuse(|| match skim.why {
            Refusal::TooLarge => Status::metadata_too_large(self.bytes_max),
            Refusal::NoMemory => Status::no_memory_for_metadata(),
        });
        Ok(writing.finish())
    }

    /// Memory that this takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let scratch = self.name.capacity() + self.value.capacity() + self.shorter.capacity();
        self.table.bytes() + self.credentials.bytes() + scratch
    }
}

/// The name that an index says, in `scratch`: the entry may be evicted by the field that uses it.
fn named<'a>(table: &Table, index: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], HpackError> {
    let known = table.get(index)?;
    scratch.clear();
    scratch.extend_from_slice(known.name);
    Ok(scratch)
}

/// Text of a client's bytes that goes into an answer.
fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_BYTES_MAX)]).into_owned()
}

fn malformed(text: String) -> Status {
    Status { code: Code::Internal, message: text.into() }
}

/// A block in the making.
struct Writing {
    role: BlockKind,
    bytes_max: usize,
    seen: Seen,
    /// What becomes of `:method` and `:path`.
    method: Option<Result<(), String>>,
    path: Option<Result<Vec<u8>, String>>,
    fields: Vec<u8>,
    refusal: Option<Status>,
}

impl Writing {
    fn new(role: BlockKind, bytes_max: usize) -> Self {
        Self {
            role,
            bytes_max,
            seen: Seen::default(),
            method: None,
            path: None,
            fields: Vec::new(),
            refusal: None,
        }
    }

    /// The first thing that is wrong is what the client is told.
    fn refuse(&mut self, why: impl FnOnce() -> Status) {
        if self.refusal.is_none() {
            self.refusal = Some(why());
            self.fields = Vec::new();
        }
    }

    fn on_field(&mut self, name: &[u8], value: &[u8], class: Class) -> Result<(), Fault> {
        let bytes_max = self.bytes_max;
        let fits = self.seen.count(name.len() + value.len() + ENTRY_OVERHEAD_BYTES, bytes_max);
        if HEADERS_BYTES_ABUSE < self.seen.bytes {
            return Err(Fault::Flood);
        }
        if !fits {
            self.refuse(|| Status::metadata_too_large(bytes_max));
        }
        if self.refusal.is_some() {
            return Ok(());
        }
        if let Err(misplaced) = self.seen.note(class.kind, self.role) {
            let name = quoted(name);
            self.refuse(|| {
                malformed(match misplaced {
                    Misplaced::Repeated => format!("malformed header: {name:?} more than once"),
                    Misplaced::BehindRegular => {
                        format!("malformed header: {name:?} behind a field that is no pseudo-header")
                    }
                    Misplaced::InTrailers => format!("malformed header: {name:?} in trailers"),
                })
            });
            return Ok(());
        }
        match class.kind {
            Kind::Method => {
                self.method = Some(if value == b"POST" { Ok(()) } else { Err(quoted(value)) });
            }
            Kind::Path => {
                self.path = Some(if class.is_plain { Ok(value.to_vec()) } else { Err(quoted(value)) });
            }
            // Whoever listens is meant, however it came there.
            Kind::Scheme | Kind::Authority | Kind::Protocol | Kind::Ignored => {}
            Kind::Host | Kind::Credential | Kind::Unread | Kind::Regular => {
                self.fields.push(LITERAL);
                put_text(&mut self.fields, name);
                put_text(&mut self.fields, value);
            }
            Kind::Connection => {
                self.refuse(|| malformed("malformed header: \"connection\" has no meaning in HTTP/2".into()));
            }
            Kind::BadName => {
                let name = quoted(name);
                self.refuse(|| malformed(format!("malformed header: invalid name {name:?}")));
            }
            Kind::BadValue => {
                let name = quoted(name);
                self.refuse(|| malformed(format!("malformed header: invalid value of {name:?}")));
            }
        }
        Ok(())
    }

    fn finish(self) -> Recoded {
        let Self { role, method, path, fields, refusal, .. } = self;
        if role == BlockKind::Trailers {
            // Nobody reads them. Malformed ones have to end their stream: a pseudo-header twice does.
            let block = if refusal.is_some() { vec![POST, POST] } else { Vec::new() };
            return Recoded { block, note: None };
        }
        if refusal.is_some() {
            let note = Note { refusal, ..Note::default() };
            return Recoded { block: vec![GET, PLAIN_SCHEME, ROOT], note: Some(note) };
        }
        let mut note = Note::default();
        let mut block = Vec::with_capacity(fields.len() + 64);
        block.push(match method.unwrap_or_else(|| Err(String::new())) {
            Ok(()) => POST,
            Err(method) => {
                note.method = Some(method);
                GET
            }
        });
        block.push(PLAIN_SCHEME);
        match path.unwrap_or_else(|| Err(String::new())) {
            Ok(path) => {
                block.push(PATH_LITERAL);
                put_text(&mut block, &path);
            }
            Err(path) => {
                block.push(ROOT);
                note.path = Some(path);
            }
        }
        block.extend_from_slice(&fields);
        let has_note = note.method.is_some() || note.path.is_some();
        Recoded { block, note: has_note.then_some(note) }
    }
}

/// Appends a text as it is, its length in front.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    const PREFIX: usize = 0x7f;
    let mut left = text.len();
    if left < PREFIX {
        out.push(left.to_le_bytes()[0]);
    } else {
        out.push(0x7f);
        left -= PREFIX;
        while 0x80 <= left {
            out.push(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        out.push(left.to_le_bytes()[0]);
    }
    out.extend_from_slice(text);
}

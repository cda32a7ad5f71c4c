//! Places of calls that have a task, and what they hold.
//!
//! Most calls have no task: `account` counts them while they are with the backend. A call whose body comes
//! in pieces, or that waits or streams, has one, and takes a place. What bounds places is memory. Each
//! kind of call has a budget of its own, so that no call is refused for the number of another kind: a
//! client with 100,000 watch streams still puts, renews and unlocks.
//!
//! An upload may take as long as it likes, as long as there is memory. When the shard's budget for uploads
//! is nearly used up, those that have not moved for longest are refused (`Uploads::relieve`), none that
//! has moved within the pressure timeout.
//!
//! Invariants: a place's bytes are in its kind's sum until the place is dropped.
//! Cost: O(1) a place; a relief O(uploads), only under pressure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::config::REQUEST_BYTES_MAX_LIMIT;
use crate::shell::client::signal::Signal;
use crate::types::limits::GRPC_OVERHEAD_BYTES;

/// What an idle call with a task costs: the task, `h2`'s stream, what the hub knows of it. Measured: 2.2 KiB
/// each for 100,000 watch streams on one connection.
pub(in crate::shell::client) const PLACE_BYTES: usize = 4096;

/// Uploads of one connection: the largest request that any flag allows and some more, 32 of the largest by default
/// side by side, or 16,384 of which nothing has arrived but the headers.
pub(in crate::shell::client) const UPLOAD_BYTES_MAX: usize = 72 << 20;
const _: () =
    assert!((REQUEST_BYTES_MAX_LIMIT + GRPC_OVERHEAD_BYTES) as usize + (4 << 20) < UPLOAD_BYTES_MAX);

/// What a call with a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) enum Kind {
    /// A request that arrives in pieces.
    Upload,
    Watch,
    KeepAlive,
    RangeStream,
    /// One answer, which comes in pieces.
    Pieces,
    HealthWatch,
    /// Waits for its turn: `Lock`, `Campaign`.
    Queue,
    Observe,
    /// The short calls of `Lock` and `Election`, among them those that let a queue move on.
    Unqueue,
    /// Waits for what the store says of its token, or for a password to be compared or hashed.
    Login,
    /// A request of the v2 API, with what it sends, or a list that it collects.
    Node,
    /// A long poll or a stream of the v2 API.
    NodeWait,
}

/// Number of kinds.
const KINDS: usize = Kind::NodeWait as usize + 1;

impl Kind {
    /// What all calls of the kind may hold in one shard: 131,072 idle streams where clients are known to
    /// have many.
    fn bytes_max(self) -> usize {
        match self {
            Self::Watch | Self::Queue => 512 << 20,
            Self::Upload | Self::KeepAlive | Self::Observe | Self::Node | Self::NodeWait => 256 << 20,
            Self::RangeStream | Self::Pieces | Self::HealthWatch | Self::Unqueue | Self::Login => 64 << 20,
        }
    }
}

/// What the shard's calls with tasks hold.
#[derive(Debug, Default)]
pub(in crate::shell::client) struct Places {
    bytes: [Cell<usize>; KINDS],
    uploads: Uploads,
}

impl Places {
    /// False: that is too much.
    fn add(&self, kind: Kind, bytes: usize) -> bool {
        let sum = &self.bytes[kind as usize];
        sum.set(sum.get() + bytes);
        sum.get() <= kind.bytes_max()
    }

    /// What all calls of the kind hold.
    #[cfg(test)]
    pub(in crate::shell::client) fn bytes(&self, kind: Kind) -> usize {
        self.bytes[kind as usize].get()
    }

    fn remove(&self, kind: Kind, bytes: usize) {
        let sum = &self.bytes[kind as usize];
        sum.set(sum.get().checked_sub(bytes).expect("what leaves a place was put there"));
    }

    /// Moves the clock. Under pressure, refuses the uploads that have not moved since `stalled_ms`, the
    /// longest idle first. Returns how many.
    pub(in crate::shell::client) fn on_tick(&self, now_ms: u64, stalled_ms: u64) -> u64 {
        self.uploads.now_ms.set(now_ms);
        let (bytes, max) = (self.bytes[Kind::Upload as usize].get(), Kind::Upload.bytes_max());
        if bytes <= max / 4 * 3 {
            return 0;
        }
        self.uploads.relieve(stalled_ms, bytes - max / 2)
    }
}

/// A call's place.
pub(in crate::shell::client) struct Place {
    places: Rc<Places>,
    kind: Kind,
    bytes: usize,
}

impl Place {
    /// None: there are too many of the kind already.
    pub(in crate::shell::client) fn begin(places: &Rc<Places>, kind: Kind) -> Option<Self> {
        let mut place = Self { places: Rc::clone(places), kind, bytes: 0 };
        place.grow(PLACE_BYTES).then_some(place)
    }

    /// Counts that exactly `bytes` are held besides the place. False: that is too much.
    pub(in crate::shell::client) fn hold(&mut self, bytes: usize) -> bool {
        let held = self.bytes - PLACE_BYTES;
        if held < bytes {
            return self.grow(bytes - held);
        }
        self.bytes -= held - bytes;
        self.places.remove(self.kind, held - bytes);
        true
    }

    /// Counts bytes. False: that is too much.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.places.add(self.kind, bytes)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.remove(self.kind, self.bytes);
    }
}

/// The shard's uploads.
#[derive(Debug, Default)]
struct Uploads {
    progress: RefCell<BTreeMap<u64, Rc<Progress>>>,
    next: Cell<u64>,
    now_ms: Cell<u64>,
}

/// How an upload is getting on.
#[derive(Debug)]
struct Progress {
    bytes: Cell<usize>,
    /// When bytes last came.
    at_ms: Cell<u64>,
    /// Its memory is needed.
    refused: Signal,
}

impl Uploads {
    fn relieve(&self, stalled_ms: u64, bytes: usize) -> u64 {
        let progress = self.progress.borrow();
        let mut stalled: Vec<_> =
            progress.values().filter(|progress| progress.at_ms.get() <= stalled_ms).collect();
        stalled.sort_by_key(|progress| progress.at_ms.get());
        let (mut freed, mut count) = (0, 0);
        for progress in stalled {
            if bytes <= freed {
                break;
            }
            freed += progress.bytes.get();
            count += u64::from(!progress.refused.has_fired());
            progress.refused.fire();
        }
        count
    }
}

/// A request that arrives in pieces.
pub(in crate::shell::client) struct Upload {
    /// What all uploads of its connection hold.
    connection_bytes: Rc<Cell<usize>>,
    place: Place,
    number: u64,
    progress: Rc<Progress>,
}

impl Upload {
    /// None: the connection, whose uploads hold `connection_bytes`, or the shard has too many already.
    pub(in crate::shell::client) fn begin(
        places: &Rc<Places>,
        connection_bytes: &Rc<Cell<usize>>,
    ) -> Option<Self> {
        let place = Place { places: Rc::clone(places), kind: Kind::Upload, bytes: 0 };
        let uploads = &places.uploads;
        let number = uploads.next.replace(uploads.next.get() + 1);
        let at_ms = Cell::new(uploads.now_ms.get());
        let progress = Rc::new(Progress { bytes: Cell::new(0), at_ms, refused: Signal::default() });
        uploads.progress.borrow_mut().insert(number, Rc::clone(&progress));
        let mut upload = Self { connection_bytes: Rc::clone(connection_bytes), place, number, progress };
        upload.grow(PLACE_BYTES).then_some(upload)
    }

    /// Counts bytes that came. False: that is too much.
    pub(in crate::shell::client) fn grow(&mut self, bytes: usize) -> bool {
        self.connection_bytes.set(self.connection_bytes.get() + bytes);
        self.progress.bytes.set(self.place.bytes + bytes);
        self.progress.at_ms.set(self.place.places.uploads.now_ms.get());
        self.place.grow(bytes) && self.connection_bytes.get() <= UPLOAD_BYTES_MAX
    }

    /// Whether its memory is needed for others.
    pub(in crate::shell::client) fn poll_refused(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.progress.refused.poll_fired(cx)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.connection_bytes.set(self.connection_bytes.get() - self.place.bytes);
        self.place.places.uploads.progress.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Rc<Cell<usize>> {
        Rc::default()
    }

    #[test]
    fn a_kind_that_is_full_leaves_room_for_every_other_kind() {
        let places = Rc::<Places>::default();
        let kinds = [Kind::Watch, Kind::KeepAlive, Kind::RangeStream, Kind::HealthWatch, Kind::Queue];
        for kind in kinds.into_iter().chain([Kind::Observe, Kind::Unqueue, Kind::Login]) {
            let full = kind.bytes_max() / PLACE_BYTES;
            let all: Vec<Place> = (0..full).map_while(|_| Place::begin(&places, kind)).collect();
            assert_eq!(all.len(), full);
            assert!(Place::begin(&places, kind).is_none(), "{kind:?}");
            assert!(kinds.iter().all(|&other| other == kind || Place::begin(&places, other).is_some()));
            assert!(Upload::begin(&places, &connection()).is_some());
        }
        assert!(places.bytes.iter().all(|sum| sum.get() == 0));
    }

    #[test]
    fn uploads_of_a_connection_are_bounded_and_return_what_they_took() {
        let (places, connection) = (Rc::<Places>::default(), connection());
        let mut upload = Upload::begin(&places, &connection).unwrap();
        assert!(upload.grow(UPLOAD_BYTES_MAX - PLACE_BYTES));
        assert!(Upload::begin(&places, &connection).is_none());
        assert!(Upload::begin(&places, &self::connection()).is_some());
        drop(upload);
        assert!(Upload::begin(&places, &connection).is_some());
        assert_eq!(places.bytes(Kind::Upload), 0);
        assert!(places.uploads.progress.borrow().is_empty());
    }

    #[test]
    fn a_place_holds_what_it_was_told_last() {
        let places = Rc::<Places>::default();
        let mut place = Place::begin(&places, Kind::Watch).unwrap();
        for bytes in [0, 100, 1 << 20, 7, 0] {
            assert!(place.hold(bytes));
            assert_eq!(places.bytes(Kind::Watch), PLACE_BYTES + bytes);
        }
    }

    #[test]
    fn under_pressure_the_uploads_that_stand_still_for_longest_are_refused_and_none_that_moves() {
        let places = Rc::<Places>::default();
        let size = 50 << 20;
        let uploads: Vec<Upload> = (1..5)
            .map(|at_ms| {
                places.on_tick(100 * at_ms, 0);
                let mut upload = Upload::begin(&places, &connection()).unwrap();
                assert!(upload.grow(size));
                upload
            })
            .collect();
        let refused = || uploads.iter().map(|upload| upload.progress.refused.has_fired()).collect::<Vec<_>>();
        // 200 MiB of 256; all but the last stand still, and two are enough.
        assert_eq!(places.on_tick(1_000, 50), 0);
        assert_eq!(refused(), [false; 4]);
        assert_eq!(places.on_tick(1_000, 350), 2);
        assert_eq!(refused(), [true, true, false, false]);
        assert_eq!(places.on_tick(1_050, 350), 0, "they are on their way out");
        drop(uploads);
        assert_eq!(places.on_tick(1_100, 1_100), 0);
    }
}

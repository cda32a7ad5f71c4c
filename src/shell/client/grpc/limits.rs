//! What `h2` is told to allow, each with its reason.
//!
//! A client can flood a connection with what costs it little and a server much: resets, header blocks,
//! small frames. Here are the bounds that `h2` knows; what it does not bound is counted by `frame_meter`
//! and `account`.

use std::time::Duration;

use h2::server::Builder;

use crate::config::METADATA_BYTES_LIMIT;
use crate::rpc::headers::{FRAME_BYTES_MAX, HEADERS_BYTES_ABUSE};

// A header list has no bound here but `h2`'s default, 16 MiB, and none is announced: the gate in front
// (`rpc::headers`) refuses what is larger than the flag says, with a status that gRPC's clients understand,
// where `h2` would say HTTP 431 or end the connection. The gate also bounds CONTINUATION frames
// (CVE-2024-27316): it passes on whole blocks in as few of them as can be.
const _: () = assert!(METADATA_BYTES_LIMIT as usize + CALL_HEADERS_BYTES <= HEADERS_BYTES_ABUSE);
const _: () = assert!(HEADERS_BYTES_ABUSE <= 16 << 20);

/// Bytes of a request's headers that are not the client's metadata: path, authority, content type, timeout
/// and agent take some 300, counted with 32 each as HTTP/2 does.
pub(in crate::shell::client) const CALL_HEADERS_BYTES: usize = 4 * 1024;

/// Window of one stream. A request of 1 MiB arrives without waiting for us.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Window of the connection: what all calls that have arrived and are not answered hold. Four of the
/// largest requests; a body in pieces gives its part back as it is copied.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What DATA frames of less than 256 bytes may cost while they wait to be read, each the 256 bytes less
/// its own. Requests of a watch stream are such frames, one each, and a client that creates its watchers
/// in one go sends a stream's whole window of them: 26,000 of 40 bytes, 5.6 MB by this count. `h2` would
/// allow 4 MiB and end the connection. 16 MiB are at most 65,000 frames, 15 MB or so in `h2`.
const SMALL_FRAMES_BYTES_MAX: usize = 16 << 20;

/// Streams reset by us that `h2` remembers, so that frames on their way are not errors. Uploads that are
/// refused together leave as many.
const RESET_STREAMS_MAX: usize = 1024;

/// How long it remembers them: a slow client's round trip.
const RESET_STREAM_TIME: Duration = Duration::from_secs(5);

/// Streams that the client opened and reset before we took them (rapid reset, CVE-2023-44487). They are
/// taken before more is read, so there are never more than the frames of a turn and one read more;
/// how many may come in all is the business of `frame_credit`.
const PENDING_ACCEPT_RESET_STREAMS_MAX: usize = 4096;
const _: () = assert!(4 * super::h2_io::TURN_FRAMES_MAX <= PENDING_ACCEPT_RESET_STREAMS_MAX as u64);

/// Builds the server side of one connection.
pub(in crate::shell::client) fn server_builder(concurrent_streams_max: Option<u32>) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_frame_size(u32::try_from(FRAME_BYTES_MAX).expect("it is the protocol's smallest"))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .reset_stream_duration(RESET_STREAM_TIME)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESET_STREAMS_MAX)
        // `h2` counts streams that it had to reset because of the client's frames ("MadeYouReset",
        // CVE-2025-8671) over the connection's life and never forgets, so any bound ends a connection of
        // months that met one now and then. `frame_credit` sees each RST_STREAM go out and bounds them.
        .max_local_error_reset_streams(None);
    // As etcd, announced only where it is limited; what a connection may hold is bounded anyway.
    if let Some(max) = concurrent_streams_max {
        builder.max_concurrent_streams(max);
    }
    builder
}

//! The shell: everything that touches a clock, a file, a socket, a thread or the runtime.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is where the world is touched"
)]

pub mod checkpoint_file;
pub mod client;
pub mod data_dir;
pub mod host;
pub mod logging;
pub mod mesh;
pub mod placement;

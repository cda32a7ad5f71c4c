//! The v2 API's words: what a request asks of which node (`ask`, out of its `form`), how nodes and events are JSON
//! (`show`), and the table of its errors (`fault`). No socket, no state.
//!
//! Compatibility: etcd 3.5's, with these differences. A path that is not clean is cleaned and not redirected. A path
//! that is not UTF-8, longer than `types::node_path` allows or deeper is an invalid field. A time to live of more than
//! 150 years is no number. `multipart/form-data` is refused, since its values would be lost.

pub mod ask;
pub mod fault;
pub mod form;
pub mod show;

pub use ask::{NodeAsk, Wanted};
pub use fault::Failure;
pub use form::Form;

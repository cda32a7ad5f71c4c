//! Words that roles say to each other about a client's call: the command, the request that it becomes in
//! the log, the read, and the answer: a response, a rejection that every member computes alike, or a refusal
//! of this member alone.

pub mod command;
pub mod group;
pub mod kind;
pub mod login;
pub mod node;
pub mod origin;
pub mod part;
pub mod pieces;
pub mod query;
pub mod refusal;
pub mod rejection;
pub mod reply;
pub mod response;

pub use command::{Command, MemberCall};
pub use group::{Group, GroupId, Request};
pub use kind::RequestKind;
pub use login::Login;
pub use node::{NodeAction, NodeFault, NodeMethod, NodeQuery, NodeWait, WaitId, WaitNews, WaitOrder};
pub use origin::{EntryId, Origin};
pub use part::Part;
pub use pieces::{AnswerId, PieceNotice, PieceOrder};
pub use query::{NotOlder, Permit, Query, RangeSlice, Read};
pub use refusal::Refusal;
pub use rejection::{AuthRejection, Rejection};
pub use reply::{Answer, Reply};
pub use response::{Outcome, Response};

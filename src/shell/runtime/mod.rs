//! What the roles run on: rings and bells between them, the cores they are pinned to, helper threads.

pub(in crate::shell) mod helpers;
pub(in crate::shell) mod mesh;
pub(in crate::shell) mod placement;
pub(in crate::shell) mod pulse;
pub(in crate::shell) mod wiring;

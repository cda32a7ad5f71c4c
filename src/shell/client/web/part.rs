//! Which part of a message a piece of it is, for framings that tell.

/// A part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) enum Part {
    Whole,
    First,
    Middle,
    Last,
}

//! What a member is told of a change.

/// What a change of users and roles means for what a member keeps of them beside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthChange {
    /// Rights, or whether they are asked for.
    Rights,
    /// The user logged in, and this stands for the token: see `tokens`.
    LoggedIn { user: String, digest: String },
    /// Tokens of this user count no more.
    LoggedOut { user: String },
    /// No token counts any more.
    AllLoggedOut,
}

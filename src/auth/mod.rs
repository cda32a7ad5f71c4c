//! Users, roles and permissions: who may do what. Replicated.
//!
//! The state (`realm`) is what etcd's auth store is: users with roles, roles with permissions on ranges of
//! keys, a revision that grows with each change of rights, and whether any of it is asked for. It holds hashes
//! of passwords as they come and never sees a password. What a user may do in sum is merged into disjoint
//! ranges when it is first asked (`rights`).
//!
//! `tokens` is no part of the state: which tokens this member knows, and until when. The clock is passed in. Neither is
//! `jwt`, which reads tokens that say themselves whose they are, nor `shown`, which reads the headers that they come in.
//!
//! Invariant: `check` of a principal is a function of the state and the principal alone, so it decides alike on
//! every member when a request is applied.
//! Cost: a check is O(log ranges of the user) and allocates nothing; the first one of a user behind a change of
//! the state is O(permissions of the user · log). A change is O(log users + log roles) and O(permissions of its role),
//! that of a role which is deleted, too (`granted`): 10,000 users with 100 permissions each are of no account.
//! Compatibility: rules, texts and their order are etcd 3.7's (`rpc::status` has the texts).

mod change;
mod granted;
mod jwt;
mod realm;
mod rights;
mod shown;
mod tokens;

pub use change::AuthChange;
pub use jwt::{Claims, WebToken, may_be_web_token, unsigned, with_signature};
pub use realm::{ADMIN, Access, Changed, ParticularUser, Realm, Record};
pub use rights::is_permission_range;
pub use shown::{basic, bearer, subprotocol};
pub use tokens::{TOKEN_PREFIX_LETTERS, Tokens, prefix_digest, token_index, token_text};

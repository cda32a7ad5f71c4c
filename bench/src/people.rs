//! Users and rights for a trial: one user a connection, each with the same hundred permissions.
//!
//! The keys of the load are in one range in the middle of them, and the others do not touch it or each other, so that
//! no server can join them to one.

use std::time::Duration;

use prost::Message;

use crate::call;
use crate::client::{ClientError, Endpoint};
use crate::http2::Method;

/// Permissions of each user.
const PERMISSIONS: usize = 100;

const ROOT: &str = "root";
const ROLE: &str = "load";

/// Users of a trial of logins.
pub(crate) const COUNT: u64 = 16;

/// The flag of both servers that makes logging in cheap: passwords are not what is measured.
pub(crate) const CHEAP: &str = "--bcrypt-cost=4";

const TIMEOUT: Duration = Duration::from_secs(30);

/// Two texts: a user or role, and what it gets.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    other: String,
}

#[derive(Clone, PartialEq, Message)]
struct Grant {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<Permission>,
}

#[derive(Clone, PartialEq, Message)]
struct Permission {
    /// 2: to read and to write.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct LoggedIn {
    #[prost(string, tag = "2")]
    token: String,
}

fn ask(endpoint: &Endpoint, method: Method, message: &impl Message) -> Result<Vec<u8>, ClientError> {
    call::call(endpoint, method, &message.encode_to_vec(), TIMEOUT)
}

fn pair(name: &str, other: &str) -> Pair {
    Pair { name: name.to_owned(), other: other.to_owned() }
}

/// The name of one of them.
pub(crate) fn user(number: impl std::fmt::Display) -> String {
    format!("user{number}")
}

/// The ranges of the role, `middle` among them.
fn ranges(middle: (&[u8], &[u8])) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let other = |side: u8, number: usize| {
        let bound = |end: char| [&[side], format!("{number:04}{end}").as_bytes()].concat();
        (bound('a'), bound('b'))
    };
    let below = (0..PERMISSIONS / 2).map(move |number| other(1, number));
    let above = (PERMISSIONS / 2..PERMISSIONS - 1).map(move |number| other(0xff, number));
    below.chain(std::iter::once((middle.0.to_vec(), middle.1.to_vec()))).chain(above)
}

/// Makes the users. Nobody is asked for rights yet.
pub(crate) fn make(endpoint: &Endpoint, count: usize, keys: (&[u8], &[u8])) -> Result<(), ClientError> {
    ask(endpoint, Method::RoleAdd, &pair(ROLE, ""))?;
    for (key, range_end) in ranges(keys) {
        let permission = Some(Permission { kind: 2, key, range_end });
        ask(endpoint, Method::RoleGrantPermission, &Grant { role: ROLE.to_owned(), permission })?;
    }
    for number in 0..count {
        ask(endpoint, Method::UserAdd, &pair(&user(number), "password"))?;
        ask(endpoint, Method::UserGrantRole, &pair(&user(number), ROLE))?;
    }
    ask(endpoint, Method::RoleAdd, &pair(ROOT, ""))?;
    ask(endpoint, Method::UserAdd, &pair(ROOT, "password"))?;
    ask(endpoint, Method::UserGrantRole, &pair(ROOT, ROOT))?;
    Ok(())
}

fn logged_in(endpoint: &Endpoint, name: &str) -> Result<Endpoint, ClientError> {
    let answer = ask(endpoint, Method::Authenticate, &pair(name, "password"))?;
    let answer = LoggedIn::decode(&answer[..]).map_err(|error| ClientError::Call(error.to_string()))?;
    Ok(Endpoint { token: Some(answer.token), ..endpoint.clone() })
}

/// Asks for rights from now on, and gives the endpoint as each user sees it.
pub(crate) fn enable(endpoint: &Endpoint, count: usize) -> Result<Vec<Endpoint>, ClientError> {
    ask(endpoint, Method::AuthEnable, &pair("", ""))?;
    (0..count).map(|number| logged_in(endpoint, &user(number))).collect()
}

/// Asks nobody any more.
pub(crate) fn disable(endpoint: &Endpoint) -> Result<(), ClientError> {
    ask(&logged_in(endpoint, ROOT)?, Method::AuthDisable, &pair("", "")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_ranges_of_which_no_two_touch() {
        let all: Vec<_> = ranges((b"k", b"l")).collect();
        assert_eq!(all.len(), PERMISSIONS);
        assert!(all.iter().all(|(key, end)| key < end));
        assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert_eq!(all[PERMISSIONS / 2], (b"k".to_vec(), b"l".to_vec()));
    }
}

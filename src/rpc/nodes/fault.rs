//! The table of the v2 API's errors.

use std::borrow::Cow;

use super::show::put_lossy;
use crate::rpc::Status;
use crate::rpc::status;

/// One row: code, message, HTTP status.
type Row = (u32, &'static str, u16);

/// etcd's, those that nothing here raises left out.
const ROWS: [Row; 18] = [
    (100, "Key not found", 404),
    (101, "Compare failed", 412),
    (102, "Not a file", 403),
    (104, "Not a directory", 400),
    (105, "Key already exists", 412),
    (107, "Root is read only", 400),
    (108, "Directory not empty", 403),
    (110, "The request requires user authentication", 401),
    (201, "PrevValue is Required in POST form", 400),
    (202, "The given TTL in POST form is not a number", 400),
    (203, "The given index in POST form is not a number", 400),
    (209, "Invalid field", 400),
    (210, "Invalid POST form", 400),
    (211, "Value provided on refresh", 400),
    (212, "A TTL must be provided on refresh", 400),
    (300, "Raft Internal Error", 500),
    (400, "watcher is cleared due to etcd recovery", 400),
    (401, "The event in requested index is outdated and cleared", 400),
];

pub const UNAUTHORIZED: u32 = 110;
pub const PREVIOUS_VALUE_REQUIRED: u32 = 201;
pub const TTL_NAN: u32 = 202;
pub const INDEX_NAN: u32 = 203;
pub const INVALID_FIELD: u32 = 209;
pub const INVALID_FORM: u32 = 210;
pub const REFRESH_VALUE: u32 = 211;
pub const REFRESH_TTL: u32 = 212;
pub const INTERNAL: u32 = 300;

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u32,
    cause: Cow<'static, [u8]>,
    /// 0: no state was asked.
    pub index: u64,
}

impl Failure {
    /// Of a code of the table.
    #[must_use]
    pub fn new(code: u32, cause: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { code, cause: cause.into(), index: 0 }
    }

    /// The same, with the index at which it failed.
    #[must_use]
    pub fn at(self, index: u64) -> Self {
        Self { index, ..self }
    }

    /// About the request's form.
    #[must_use]
    pub fn of_text(code: u32, cause: &'static str) -> Self {
        Self::new(code, cause.as_bytes())
    }

    /// What the rest of the member says no with.
    #[must_use]
    pub fn of_status(status: &Status) -> Self {
        let is_denied = [
            status::PERMISSION_DENIED,
            status::USER_EMPTY,
            status::AUTH_FAILED,
            status::AUTH_OLD_REVISION,
            status::NO_PASSWORD_USER,
            status::INVALID_AUTH_TOKEN,
        ];
        if is_denied.contains(status) {
            return Self::of_text(UNAUTHORIZED, "Insufficient credentials");
        }
        Self::new(INTERNAL, status.message.as_bytes().to_vec())
    }

    /// The message and the status of the code.
    fn row(&self) -> Row {
        let row = ROWS.into_iter().find(|(code, _, _)| *code == self.code);
        row.unwrap_or((self.code, "Raft Internal Error", 500))
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.row().2
    }

    /// Appends the body.
    pub fn put(&self, out: &mut Vec<u8>) {
        let (code, message, _) = self.row();
        out.extend_from_slice(format!("{{\"errorCode\":{code},\"message\":\"{message}\"").as_bytes());
        if !self.cause.is_empty() {
            out.extend_from_slice(b",\"cause\":");
            put_lossy(&self.cause, out);
        }
        out.extend_from_slice(format!(",\"index\":{}}}\n", self.index).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NodeFault;

    #[test]
    fn every_fault_of_a_node_has_its_row() {
        for number in 0..1_000 {
            if NodeFault::from_number(number).is_some() {
                assert!(ROWS.iter().any(|(code, _, _)| *code == number), "{number}");
            }
        }
        assert!(ROWS.is_sorted_by_key(|(code, _, _)| *code));
    }

    #[test]
    fn errors_are_written_in_etcds_order_and_without_an_empty_cause() {
        let mut out = Vec::new();
        Failure { index: 9, ..Failure::new(101, &b"[\"a\" != \xff]"[..]) }.put(&mut out);
        Failure::new(102, &b""[..]).put(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"errorCode\":101,\"message\":\"Compare failed\",\"cause\":\"[\\\"a\\\" != \u{fffd}]\",\"index\":9}\n\
             {\"errorCode\":102,\"message\":\"Not a file\",\"index\":0}\n"
        );
        assert_eq!(Failure::of_status(&status::PERMISSION_DENIED).status(), 401);
        assert_eq!(Failure::of_status(&status::STOPPED).status(), 500);
    }
}

//! `pinion-not-older-than`: the revision that the answer to a read has to be of, or a later one, as a client says it
//! in its metadata. `NOT_OLDER_THAN.md` tells what a client does with it.

use super::{Code, Status};

/// The metadata's name; in the JSON gateway a header, behind `Grpc-Metadata-`.
pub const NOT_OLDER_THAN: &str = "pinion-not-older-than";

/// Reads the value of the metadata; 0 without one.
///
/// # Errors
/// It is no revision.
pub fn parse(value: Option<&[u8]>) -> Result<i64, Status> {
    let Some(value) = value else { return Ok(0) };
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let revision = digits.and_then(|digits| digits.parse::<i64>().ok());
    revision.ok_or_else(|| {
        let shown = value[..value.len().min(64)].escape_ascii();
        let message = format!("{NOT_OLDER_THAN} is a revision, a whole number from 0 to 2^63-1: {shown}");
        Status { code: Code::InvalidArgument, message: message.into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_digits_alone_and_fits_what_revisions_are() {
        assert_eq!(parse(None), Ok(0));
        for (text, revision) in [("0", 0), ("17", 17), ("007", 7), ("9223372036854775807", i64::MAX)] {
            assert_eq!(parse(Some(text.as_bytes())), Ok(revision));
        }
        for text in [&b""[..], b"-1", b"+1", b" 1", b"1 ", b"0x1", b"1.0", b"9223372036854775808", b"\xff"] {
            let refused = parse(Some(text)).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{}", text.escape_ascii());
        }
        let long = vec![b'x'; 1 << 20];
        assert!(parse(Some(&long)).unwrap_err().message.len() < 200);
    }
}

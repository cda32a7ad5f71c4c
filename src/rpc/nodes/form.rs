//! Forms: the parameters of a request's query and body, read as Go reads them.
//!
//! Names and values are bytes after their escapes are undone. Of several values of a name the first counts, those of
//! the body before those of the query.

use crate::rpc::escape::{BadEscape, unescape};

/// The most parameters; further ones would only be passed over one by one.
const PARAMETERS_MAX: usize = 10_000;

/// Bytes of a body at most by which every value that fits a request comes through, whatever is escaped.
#[must_use]
pub fn body_bytes_max(request_bytes_max: u32) -> usize {
    request_bytes_max as usize * 3 + (64 << 10)
}

/// A request's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Form {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a text is no form, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    #[error(transparent)]
    Escape(#[from] BadEscape),
    #[error("invalid semicolon separator in query")]
    Semicolon,
    #[error("http: POST too large")]
    TooLarge,
    #[error("multipart/form-data is not read here: send application/x-www-form-urlencoded")]
    Multipart,
    #[error("too many parameters")]
    TooMany,
}

/// Whether a body of this type is read, for a method that has one.
///
/// # Errors
/// It is of a type whose values would be lost.
pub fn reads_body(method: &str, content_type: Option<&[u8]>) -> Result<bool, FormError> {
    if !matches!(method, "PUT" | "POST") {
        return Ok(false);
    }
    let named = content_type.unwrap_or_default();
    let name = named.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if name.eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(FormError::Multipart);
    }
    Ok(name.eq_ignore_ascii_case(b"application/x-www-form-urlencoded"))
}

impl Form {
    /// Reads the body's form, which comes first, and the query's.
    ///
    /// # Errors
    /// One of them is none.
    pub fn read(body: &[u8], query: &[u8]) -> Result<Self, FormError> {
        let mut form = Self::default();
        let of_body = form.add(body);
        // As Go: of both errors the body's counts.
        let of_query = form.add(query);
        of_body.and(of_query).map(|()| form)
    }

    fn add(&mut self, text: &[u8]) -> Result<(), FormError> {
        let mut result = Ok(());
        for pair in text.split(|&byte| byte == b'&') {
            if pair.contains(&b';') {
                result = Err(FormError::Semicolon);
                continue;
            }
            if pair.is_empty() {
                continue;
            }
            if PARAMETERS_MAX <= self.pairs.len() {
                return Err(FormError::TooMany);
            }
            let mut halves = pair.splitn(2, |&byte| byte == b'=');
            let mut half = || unescape(halves.next().unwrap_or_default(), true).map_err(FormError::from);
            match half().and_then(|name| half().map(|value| (name, value))) {
                Ok(pair) => self.pairs.push(pair),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| &value[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_comes_before_query_and_the_first_value_counts() {
        let form = Form::read(b"value=a+b%20c&value=x&&=y&dir", b"value=q&ttl=%35").unwrap();
        assert_eq!(form.get("value"), Some(&b"a b c"[..]));
        assert_eq!(form.get("ttl"), Some(&b"5"[..]));
        assert_eq!(form.get("dir"), Some(&b""[..]));
        assert_eq!(form.get("none"), None);
        assert_eq!(Form::read(b"value=%ff%00", b"").unwrap().get("value"), Some(&b"\xff\0"[..]));
    }

    #[test]
    fn what_is_no_form_is_refused_in_gos_words() {
        let error = |body: &[u8], query: &[u8]| Form::read(body, query).unwrap_err().to_string();
        assert_eq!(error(b"value=%zz", b""), "invalid URL escape \"%zz\"");
        assert_eq!(error(b"value=1%", b""), "invalid URL escape \"%\"");
        assert_eq!(error(b"", b"a=%4"), "invalid URL escape \"%4\"");
        assert_eq!(error(b"value=1;b=2", b""), "invalid semicolon separator in query");
        assert_eq!(error(b"a=%zz", b"x;y"), "invalid URL escape \"%zz\"");
        assert_eq!(error(&b"a&".repeat(PARAMETERS_MAX + 1), b""), "too many parameters");
    }

    #[test]
    fn bodies_are_read_by_their_type() {
        let form = Some(&b"application/x-www-form-urlencoded; charset=utf-8"[..]);
        assert_eq!(reads_body("PUT", form), Ok(true));
        assert_eq!(reads_body("DELETE", form), Ok(false));
        assert_eq!(reads_body("POST", None), Ok(false));
        assert_eq!(reads_body("PUT", Some(b"text/plain")), Ok(false));
        assert_eq!(reads_body("PUT", Some(b"multipart/form-data; boundary=x")), Err(FormError::Multipart));
    }
}

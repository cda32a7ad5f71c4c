//! Percent-encoding, read as strictly as Go reads it.

/// An escape without its two digits, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL escape {0}")]
pub struct BadEscape(String);

/// Undoes escapes; in forms a plus is a blank.
///
/// # Errors
/// An escape is none.
pub fn unescape(text: &[u8], is_form: bool) -> Result<Vec<u8>, BadEscape> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        match byte {
            b'%' => {
                let digit = |at: usize| more.get(at).and_then(|&digit| (digit as char).to_digit(16));
                let Some((high, low)) = digit(0).zip(digit(1)) else {
                    let shown = [&b"%"[..], &more[..more.len().min(2)]].concat();
                    return Err(BadEscape(format!("{:?}", String::from_utf8_lossy(&shown))));
                };
                out.push(u8::try_from(high << 4 | low).expect("two digits are a byte"));
                rest = &more[2..];
            }
            b'+' if is_form => out.push(b' '),
            byte => out.push(byte),
        }
    }
    Ok(out)
}

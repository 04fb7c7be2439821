//! Keys and values as text: UTF-8 with each backslash doubled, and every other byte escaped.
//!
//! ```text
//! bytes          text
//! jobs/ä         jobs/ä
//! a \ ff 00      a\\\xff + U+0000, which JSON escapes
//! ```

use std::borrow::Cow;

use bytes::Bytes;

/// The text of some bytes. Different bytes have different texts.
pub(super) fn to_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\\') => Cow::Borrowed(text),
        _ => Cow::Owned(escape(bytes)),
    }
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes of a text; `None` if an escape is invalid.
pub(super) fn from_text(text: &str) -> Option<Bytes> {
    if !text.contains('\\') {
        return Some(Bytes::copy_from_slice(text.as_bytes()));
    }
    let mut bytes = Vec::new();
    let mut parts = text.split('\\');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    while let Some(part) = parts.next() {
        if let Some(hex) = part.strip_prefix('x') {
            let (digits, rest) = hex.split_at_checked(2)?;
            // `from_str_radix` accepts a sign.
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()?);
            bytes.extend_from_slice(rest.as_bytes());
        } else if part.is_empty() {
            // Two backslashes in sequence: the text after the second one follows.
            bytes.push(b'\\');
            bytes.extend_from_slice(parts.next()?.as_bytes());
        } else {
            return None;
        }
    }
    Some(bytes.into())
}

/// The bytes of a text, or an error that quotes it.
pub(super) fn decode(text: &str) -> Result<Bytes, String> {
    from_text(text).ok_or_else(|| format!("the escape in {text:?} is invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_bytes_is_read_back() {
        let cases: [&[u8]; 8] = [
            b"",
            b"jobs/1",
            "ä".as_bytes(),
            b"\\",
            b"\\\\",
            b"a\\xff",
            b"\xff\\\x00\xfe",
            b"\xc3(",
        ];
        for bytes in cases {
            let text = to_text(bytes);
            assert_eq!(from_text(&text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(to_text(b"a\\\xff"), "a\\\\\\xff");
        for invalid in ["\\", "\\q", "\\x", "\\x1", "\\xzz", "\\x+f", "\\xä"] {
            assert_eq!(from_text(invalid), None, "{invalid}");
        }
    }
}

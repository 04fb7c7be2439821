//! Keys and values, which are bytes, as text.

use std::fmt::Write as _;

use serde_json::Value;

/// In JSON: a string, or an array of its bytes if it is not UTF-8.
pub(crate) fn json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.into(),
    }
}

/// On a line: as it is, but that what would break the line, or is not UTF-8, is escaped.
pub(crate) fn line(bytes: &[u8]) -> String {
    let mut line = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
        }
        for byte in chunk.invalid() {
            write!(line, "\\x{byte:02x}").expect("a string takes everything");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_is_and_never_breaks_a_line() {
        assert_eq!(line("10.0.0.7:80 – größer".as_bytes()), "10.0.0.7:80 – größer");
        assert_eq!(line(b"two\nlines\x1b[1m \xff"), "two\\nlines\\u{1b}[1m \\xff");
    }

    #[test]
    fn bytes_that_are_no_text_are_an_array_in_json() {
        assert_eq!(json(b"text"), Value::from("text"));
        assert_eq!(json(b"\xff\x00"), Value::from(vec![255, 0]));
    }
}

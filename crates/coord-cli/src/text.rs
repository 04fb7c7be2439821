//! Keys, values and names as text: in JSON, and escaped on a line of a terminal.
//!
//! Keys and values are bytes, and a name may contain any character. A character that a terminal
//! does not show, or that reorders or ends a line, is escaped everywhere.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use serde_json::Value;

/// Characters that std counts as printable although a terminal shows nothing for them: Unicode's
/// `Default_Ignorable_Code_Point` outside the format category, and the blank of Braille.
const INVISIBLE: [RangeInclusive<char>; 10] = [
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2065}'..='\u{2065}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{e0000}'..='\u{e0fff}',
];

/// A key or value as JSON: a string, or an array of its bytes if it is not UTF-8.
pub(crate) fn to_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.into(),
    }
}

/// A JSON document on one line. Invisible characters are escaped: a JSON parser decodes them, and a
/// terminal does not interpret them.
pub(crate) fn json_line(document: &Value) -> String {
    let mut line = String::new();
    // Only strings of the document can contain characters that need an escape.
    for character in document.to_string().chars() {
        if is_visible(character) {
            line.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(line, "\\u{unit:04x}").expect("a write to a string cannot fail");
            }
        }
    }
    line
}

/// Escapes a key, value, name or message for one line of text. Bytes that are not UTF-8, control
/// characters and invisible characters are escaped, because they would break the line, reorder it,
/// or make two names look the same.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut line = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_visible(character) {
                line.push(character);
            } else {
                line.extend(character.escape_default());
            }
        }
        for byte in chunk.invalid() {
            write!(line, "\\x{byte:02x}").expect("a write to a string cannot fail");
        }
    }
    line
}

/// Whether a terminal shows this character and does not interpret it.
fn is_visible(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    // std escapes a combining mark at the start of a string only. After `a` it is visible.
    let text = ['a', character].iter().collect::<String>();
    let escaped = text.escape_debug().to_string();
    escaped.len() == text.len() && !INVISIBLE.iter().any(|range| range.contains(&character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_keeps_text_and_escapes_line_breaks() {
        assert_eq!(escape("10.0.0.7:80 – größer".as_bytes()), "10.0.0.7:80 – größer");
        assert_eq!(escape(b"two\nlines\x1b[1m \xff"), "two\\nlines\\u{1b}[1m \\xff");
    }

    /// Regression: a name with such a character reordered the line, or looked like another name.
    #[test]
    fn invisible_characters_are_escaped() {
        for invisible in [
            '\u{202e}',
            '\u{2066}',
            '\u{200f}',
            '\u{61c}',
            '\u{2028}',
            '\u{2029}',
            '\u{200b}',
            '\u{200d}',
            '\u{feff}',
            '\u{ad}',
            '\u{a0}',
            '\u{3000}',
            '\u{85}',
            '\u{fe0f}',
            '\u{34f}',
            '\u{3164}',
            '\u{2800}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{e000}',
            '\u{fff9}',
        ] {
            let text = format!("a{invisible}b");
            let escaped = format!("a{}b", invisible.escape_unicode());
            assert_eq!(escape(text.as_bytes()), escaped);
            let document = json_line(&Value::from(&*text));
            assert!(document.is_ascii(), "{document}");
            assert_eq!(serde_json::from_str::<Value>(&document).expect("it is JSON"), text);
        }
        for visible in ["größer", "gro\u{308}ßer", "日本語", "שלום", "हिन्दी", "🦀", "\"\\'"]
        {
            assert_eq!(escape(visible.as_bytes()), visible);
        }
    }

    #[test]
    fn non_utf8_bytes_are_an_array_in_json() {
        assert_eq!(to_json(b"text"), Value::from("text"));
        assert_eq!(to_json(b"\xff\x00"), Value::from(vec![255, 0]));
    }
}

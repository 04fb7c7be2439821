//! Keys, values and elements in Elle's histories: numbers, or strings.

use bytes::Bytes;
use serde_json::Value;

use super::super::bytes::from_text;

/// A number if the text is one in its usual form, otherwise a string.
pub(super) fn to_scalar(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Value::from(number),
        _ => Value::from(text),
    }
}

/// The text of a number or a string.
pub(super) fn to_string(scalar: &Value) -> Option<String> {
    match scalar {
        Value::Number(number) => number.as_i64().map(|number| number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// The bytes of a number or a string.
pub(super) fn to_bytes(scalar: &Value) -> Option<Bytes> {
    let text = to_string(scalar)?;
    // A file of another tool may have a backslash that is no escape.
    Some(from_text(&text).unwrap_or_else(|| Bytes::from(text)))
}

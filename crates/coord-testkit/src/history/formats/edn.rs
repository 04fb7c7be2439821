//! EDN, as far as Jepsen writes histories: read into JSON values.
//!
//! ```text
//! #jepsen.history.Op{:type :ok, :value [[:r "x" nil]]} ; a comment
//! {"type": "ok", "value": [["r", "x", null]]}
//! ```
//!
//! Keywords become strings without the colon, lists and sets become arrays, tags are dropped.
//!
//! Source: the EDN format, github.com/edn-format/edn.

use serde_json::{Map, Value};

use super::FormatError;

/// Reads all forms of a text.
pub(super) fn read(text: &str) -> Result<Vec<Value>, FormatError> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let forms = reader.forms(None);
    forms.map_err(|message| {
        let line = text[..reader.at.min(text.len())].matches('\n').count() + 1;
        FormatError::syntax(line, message)
    })
}

/// Appends a string in quotes.
pub(super) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// How deep forms may be nested, as in serde_json. A deeper text would overflow the stack.
const DEPTH_MAX: usize = 128;

struct Reader<'a> {
    text: &'a str,
    /// The number of bytes that were read.
    at: usize,
    /// How many forms contain the current one.
    depth: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Reads one character.
    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip_blanks(&mut self) {
        loop {
            let blanks = |c: char| c.is_whitespace() || c == ',';
            self.at = self.text.len() - self.rest().trim_start_matches(blanks).len();
            if !self.rest().starts_with(';') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// Reads forms up to the `end` of a collection, or of the text.
    fn forms(&mut self, end: Option<char>) -> Result<Vec<Value>, String> {
        let mut forms = Vec::new();
        loop {
            self.skip_blanks();
            match (self.rest().chars().next(), end) {
                (None, None) => return Ok(forms),
                (None, Some(end)) => return Err(format!("the text ends before `{end}`")),
                (Some(c), Some(end)) if c == end => {
                    self.at += end.len_utf8();
                    return Ok(forms);
                }
                (Some(_), _) => forms.extend(self.form()?),
            }
        }
    }

    /// Reads one form; `None` if it is discarded.
    fn form(&mut self) -> Result<Option<Value>, String> {
        if self.depth == DEPTH_MAX {
            return Err(format!("forms are nested more than {DEPTH_MAX} deep"));
        }
        self.depth += 1;
        let form = self.form_at_depth();
        self.depth -= 1;
        form
    }

    fn form_at_depth(&mut self) -> Result<Option<Value>, String> {
        self.skip_blanks();
        let first = self.rest().chars().next().ok_or("the text ends before a form")?;
        match first {
            '[' | '(' | '{' | '"' | '#' => drop(self.next()),
            _ => return self.atom().map(Some),
        }
        Ok(Some(match first {
            '[' => Value::Array(self.forms(Some(']'))?),
            '(' => Value::Array(self.forms(Some(')'))?),
            '{' => self.map()?,
            '"' => Value::String(self.string()?),
            _ if self.rest().starts_with('{') => {
                self.at += 1;
                Value::Array(self.forms(Some('}'))?)
            }
            _ if self.rest().starts_with('_') => {
                self.at += 1;
                self.form()?;
                return Ok(None);
            }
            _ => {
                self.token();
                return self.form();
            }
        }))
    }

    fn map(&mut self) -> Result<Value, String> {
        let mut forms = self.forms(Some('}'))?.into_iter();
        let mut map = Map::new();
        while let Some(key) = forms.next() {
            let value = forms.next().ok_or("a map has a key without a value")?;
            let key = key.as_str().map_or_else(|| key.to_string(), ToOwned::to_owned);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn string(&mut self) -> Result<String, String> {
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                '"' => return Ok(text),
                '\\' => text.push(match self.next() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(c @ ('"' | '\\')) => c,
                    other => return Err(format!("the escape {other:?} is not supported")),
                }),
                c => text.push(c),
            }
        }
        Err("the text ends in a string".to_owned())
    }

    fn token(&mut self) -> &'a str {
        let ends = |c: char| c.is_whitespace() || ",;()[]{}\"".contains(c);
        let rest = self.rest();
        let token = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.at += token.len();
        token
    }

    fn atom(&mut self) -> Result<Value, String> {
        let token = self.token();
        if token.is_empty() {
            return Err(format!("unexpected `{}`", self.rest().chars().next().unwrap_or(' ')));
        }
        Ok(match token {
            "nil" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => match token.strip_prefix(':') {
                Some(keyword) => Value::String(keyword.to_owned()),
                None => {
                    let number = token.trim_end_matches(['N', 'M']);
                    serde_json::from_str(number).unwrap_or_else(|_| Value::String(token.to_owned()))
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_of_jepsen_histories_are_read() {
        let text =
            "#jepsen.history.Op{:type :ok, :process 0 :value [[:r 8 nil] [:append \"ä\" -2]]}
            ; a comment
            #_ {:discarded true} (1N 2.5 sym) #{:a} \"q\\\"\\n\" {1 true}";
        let expected = [
            json!({"type": "ok", "process": 0, "value": [["r", 8, null], ["append", "ä", -2]]}),
            json!([1, 2.5, "sym"]),
            json!(["a"]),
            json!("q\"\n"),
            json!({"1": true}),
        ];
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn syntax_error_has_its_line() {
        let cases = [
            ("{}\n{:a}", "line 2: a map has a key without a value"),
            ("[1\n", "line 2: the text ends before `]`"),
            ("\n\n]", "line 3: unexpected `]`"),
            ("\"a", "line 1: the text ends in a string"),
            ("\"\\q\"", "line 1: the escape Some('q') is not supported"),
            ("#_", "line 1: the text ends before a form"),
        ];
        for (text, message) in cases {
            assert_eq!(read(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn deeply_nested_text_is_refused() {
        for opening in ["[", "(", "{", "#{", "#a ", "#_ "] {
            let error = read(&opening.repeat(100_000)).unwrap_err().to_string();
            assert_eq!(error, "line 1: forms are nested more than 128 deep");
        }
        let nested = format!("{}1{}", "[".repeat(127), "]".repeat(127));
        assert!(read(&nested).is_ok());
    }

    #[test]
    fn written_string_is_read_back() {
        let mut text = String::new();
        write_string("a\"\\\n\t\rä", &mut text);
        assert_eq!(read(&text).unwrap(), [json!("a\"\\\n\t\rä")]);
    }
}

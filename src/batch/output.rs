//! What an image's commands printed, as a part of one line of JSON, with nothing lost.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::bytes::is_steering;

/// How [`ItemResult::output`](super::ItemResult::output) stands for what was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Encoding {
    /// It is one JSON value, and here it is.
    Json,
    /// It is several JSON objects or arrays; here they are in an array.
    JsonSequence,
    /// It is text, here a string.
    Text,
    /// It is something else, here a string in base64.
    Base64,
}

/// What was printed, on one line; `None` for nothing.
pub(super) fn encode(printed: &[u8]) -> Option<(Box<RawValue>, Encoding)> {
    if printed.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(printed) else {
        return Some((string(&BASE64.encode(printed))?, Encoding::Base64));
    };
    let values: Result<Vec<&RawValue>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    match values.as_deref() {
        Ok([value]) => Some((raw(&compact(value.get()))?, Encoding::Json)),
        // A list of numbers is rather text.
        Ok(values @ [_, ..]) if values.iter().all(|value| value.get().starts_with(['{', '['])) => {
            let values: Vec<String> = values.iter().map(|value| compact(value.get())).collect();
            Some((raw(&format!("[{}]", values.join(",")))?, Encoding::JsonSequence))
        }
        _ => Some((string(text)?, Encoding::Text)),
    }
}

fn raw(json: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(json.to_owned()).ok()
}

fn string(text: &str) -> Option<Box<RawValue>> {
    raw(&compact(&serde_json::to_string(text).ok()?))
}

/// Valid JSON without the blanks between its tokens, and with characters that steer terminals escaped. Everything else,
/// the order of keys and the digits of numbers too, stays as it was.
fn compact(json: &str) -> String {
    let mut compact = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        if in_string {
            if character == '\u{7f}' || is_steering(character) {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    // Writing into memory does not fail.
                    let _ = write!(compact, "\\u{unit:04x}");
                }
            } else {
                compact.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if !character.is_ascii_whitespace() {
            compact.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            in_string = character == '"';
        }
    }
    String::from_utf8(compact).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost() {
        for (printed, expected, encoding) in [
            (
                &b"{\n  \"b\": [1, 2.50, 18446744073709551616],\n  \"a\": \"x \\\" { y\"\n}\n"[..],
                r#"{"b":[1,2.50,18446744073709551616],"a":"x \" { y"}"#,
                Encoding::Json,
            ),
            (b"{\"a\": 1}\n{\"a\": 2}\n", r#"[{"a":1},{"a":2}]"#, Encoding::JsonSequence),
            (b"null\n", "null", Encoding::Json),
            (b"1\n2\n", r#""1\n2\n""#, Encoding::Text),
            (b"{\"a\": 1}\n{\"a\":", r#""{\"a\": 1}\n{\"a\":""#, Encoding::Text),
            (b"plain \"text\"\n", r#""plain \"text\"\n""#, Encoding::Text),
            (b" ", r#"" ""#, Encoding::Text),
            (b"\xff\x00", r#""/wA=""#, Encoding::Base64),
            ("\"\u{9b}31m\u{202e}\"".as_bytes(), r#""\u009b31m\u202e""#, Encoding::Json),
            ("\u{9b}31m\\\u{7f}".as_bytes(), r#""\u009b31m\\\u007f""#, Encoding::Text),
            (br#""\\" "#, r#""\\""#, Encoding::Json),
        ] {
            let (value, found) = encode(printed).unwrap();
            assert_eq!((value.get(), found), (expected, encoding), "{}", String::from_utf8_lossy(printed));
        }
        assert!(encode(b"").is_none());
    }
}

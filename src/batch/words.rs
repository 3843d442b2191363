//! Scripts: a command line on each line, words with quotes, and no shell anywhere.
//!
//! | written | means |
//! |---|---|
//! | blank, tab | ends a word |
//! | `#` at a word's begin | a comment to the end of the line |
//! | `'…'` | these bytes as they are |
//! | `"…"` | the same, but `\"` and `\\` stand for `"` and `\` |
//! | `\x` elsewhere | `x` as it is |
//!
//! What only a shell would understand (`|`, `>`, `;`, `$` …) is refused outside quotes: a script that relies on it would
//! otherwise do something else than it says.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::error::{Error, Result};

/// The command lines of a script, without empty ones.
pub fn parse_script(script: &[u8]) -> Result<Vec<Vec<OsString>>> {
    let mut lines = Vec::new();
    for (at, line) in script.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let words = split_words(line).map_err(|problem| {
            let error = Error::invalid(format!("line {} of the script: {}", at + 1, problem.message));
            if problem.shell { error.with_hint("no shell reads it; quote the character if it is meant") } else { error }
        })?;
        if !words.is_empty() {
            lines.push(words);
        }
    }
    Ok(lines)
}

struct Problem {
    message: String,
    shell: bool,
}

impl Problem {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), shell: false }
    }
}

fn split_words(line: &[u8]) -> Result<Vec<OsString>, Problem> {
    let mut words = Vec::new();
    // An empty word is one when quotes say so.
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'#' if word.is_none() => break,
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next() {
                        Some(b'\'') => break,
                        Some(byte) => word.push(byte),
                        None => return Err(Problem::new("a single quote is not closed")),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next() {
                        Some(b'"') => break,
                        Some(b'\\') => match bytes.next() {
                            Some(byte @ (b'"' | b'\\')) => word.push(byte),
                            Some(byte) => word.extend([b'\\', byte]),
                            None => return Err(Problem::new("a double quote is not closed")),
                        },
                        Some(byte) => word.push(byte),
                        None => return Err(Problem::new("a double quote is not closed")),
                    }
                }
            }
            b'\\' => match bytes.next() {
                Some(byte) => word.get_or_insert_default().push(byte),
                None => return Err(Problem::new("nothing follows the backslash")),
            },
            b'|' | b'<' | b'>' | b';' | b'&' | b'$' | b'`' => {
                return Err(Problem { message: format!("'{}' has no meaning here", char::from(byte)), shell: true });
            }
            0 => return Err(Problem::new("a word cannot hold a NUL byte")),
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    if words.iter().any(|word| word.contains(&0)) {
        return Err(Problem::new("a word cannot hold a NUL byte"));
    }
    Ok(words.into_iter().map(OsString::from_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        let lines = parse_script(script.as_bytes()).unwrap();
        lines.into_iter().map(|line| line.into_iter().map(|word| word.into_string().unwrap()).collect()).collect()
    }

    #[test]
    fn words_have_quotes_and_comments() {
        for (script, expected) in [
            ("", vec![]),
            ("# nothing\n  \t\n", vec![]),
            ("inspect {image}", vec![vec!["inspect", "{image}"]]),
            ("a b # c\r\n\td#e\n", vec![vec!["a", "b"], vec!["d#e"]]),
            (
                r#"cat {image} '/a b' "c \"d\" \\ \n" e\ f"#,
                vec![vec!["cat", "{image}", "/a b", r#"c "d" \ \n"#, "e f"]],
            ),
            (r#"'' "" a''b '#' \# '|;$'"#, vec![vec!["", "", "ab", "#", "#", "|;$"]]),
            (r"'\' \\", vec![vec![r"\", r"\"]]),
            (r#"pre'mid'"post""#, vec![vec!["premidpost"]]),
        ] {
            assert_eq!(words(script), expected, "{script}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay_as_they_are() {
        let lines = parse_script(b"cat \xff\xfe '\x80'").unwrap();
        let bytes: Vec<_> = lines[0].iter().map(|word| word.clone().into_vec()).collect();
        assert_eq!(bytes, [&b"cat"[..], b"\xff\xfe", b"\x80"]);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (script, message) in [
            ("a\nb 'c", "line 2 of the script: a single quote is not closed"),
            ("\n\n\"c", "line 3 of the script: a double quote is not closed"),
            ("\"c\\", "line 1 of the script: a double quote is not closed"),
            ("a \\", "line 1 of the script: nothing follows the backslash"),
            ("a > b", "line 1 of the script: '>' has no meaning here"),
            ("a $HOME", "line 1 of the script: '$' has no meaning here"),
            ("a 'b\0c'", "line 1 of the script: a word cannot hold a NUL byte"),
        ] {
            let error = parse_script(script.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.exit_code(), 2);
            assert_eq!(error.hint().is_some(), message.contains("no meaning"));
        }
    }
}

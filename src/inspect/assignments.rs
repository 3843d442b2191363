//! `KEY=value` files: os-release(5), lsb-release, `/etc/default/*`, `/etc/sysconfig/*`, locale.conf, grubenv.
//!
//! They are subsets of shell. A line is a comment (`#`), blank, or `[export ]KEY=value`; the value may be bare, in `'…'`
//! (nothing is special inside) or in `"…"` (a backslash before `"`, `$`, `` ` `` or `\` is cut). A bare value ends at a
//! blank. Nothing is expanded and nothing runs. The last assignment of a key wins, as in a shell.
//! Lines longer than PATH_MAX are passed over.

use std::collections::BTreeMap;

use crate::limits;

/// Keys kept of one file. Ours; os-release has some 20.
const KEYS: usize = 1_024;

/// The assignments in `text`; lines that are none are passed over. At most 1,024 keys are kept.
#[must_use]
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (key, value) in text.lines().filter_map(assignment) {
        if values.len() >= KEYS {
            break;
        }
        values.insert(key.to_owned(), unquote(value));
    }
    values
}

/// The value of `key` in `text`, unless it is empty.
#[must_use]
pub fn find(text: &str, key: &str) -> Option<String> {
    let found = text.lines().filter_map(assignment).rfind(|(name, _)| *name == key);
    found.map(|(_, value)| unquote(value)).filter(|value| !value.is_empty())
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.len() > limits::PATH_BYTES {
        return None;
    }
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (key, value) = line.split_once('=')?;
    let key = key.trim_end();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!key.is_empty() && key.chars().all(is_name)).then(|| (key, value.trim_start()))
}

/// What a shell would assign. An unclosed quote ends with the line.
#[must_use]
pub fn unquote(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut quote = None;
    let mut characters = value.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => break,
            (None, '\\') => text.extend(characters.next()),
            (Some('"'), '\\') => {
                let escaped = characters.next_if(|next| matches!(next, '"' | '$' | '`' | '\\'));
                text.push(escaped.unwrap_or('\\'));
            }
            (_, c) => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unquoted_as_a_shell_does() {
        for (value, expected) in [
            ("debian", "debian"),
            ("\"Debian GNU/Linux 12\"", "Debian GNU/Linux 12"),
            ("'it''s'", "its"),
            (r#""a \"b\" \$c \\ \n""#, r#"a "b" $c \ \n"#),
            (r"a\ b c", "a b"),
            ("bare # comment", "bare"),
            ("\"unclosed", "unclosed"),
            ("", ""),
        ] {
            assert_eq!(unquote(value), expected, "{value}");
        }
    }

    #[test]
    fn comments_and_other_lines_are_passed_over_and_the_last_one_wins() {
        let text = "# ID=no\n\nexport ID=one\nID = two\nnot an assignment\n[section]\n=x\nKEY WITH=blank\n";
        assert_eq!(parse(text), BTreeMap::from([("ID".to_owned(), "two".to_owned())]));
        assert_eq!(find(text, "ID").as_deref(), Some("two"));
        assert_eq!(find("ID=\n", "ID"), None);
    }
}

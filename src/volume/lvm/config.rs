//! The text of LVM2 metadata: nested sections of `key = value`, after lvm2's `libdm/libdm-config.c` grammar.
//!
//! ```text
//! file    := { section | assignment }
//! section := key '{' { section | assignment } '}'
//! assign  := key '=' value
//! value   := scalar | '[' [ scalar { ',' scalar } [ ',' ] ] ']'
//! scalar  := integer | float | "string, with \" and \\"
//! '#' begins a comment that ends with the line
//! ```
//!
//! Refused: sections nested deeper than 16, more than 400,000 values, integers below zero or past 64 bits (floats, which
//! no field we read has, are kept as nothing).

use std::borrow::Cow;

use crate::bytes::{escape, to_u64};
use crate::error::{Error, Result};
use crate::limits;

/// LVM itself nests four deep.
const DEPTH: u64 = 16;

/// Keys, sections and array elements together; each takes some 50 bytes of memory. A group of 40,000 volumes has these.
const VALUES: u64 = 400_000;

/// A value, its text borrowed where it has no escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Float,
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Section(Section<'a>),
}

/// Keys and values in the order of the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Section<'a>(Vec<(&'a str, Value<'a>)>);

impl<'a> Section<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, key: &str) -> &[Value<'a>] {
        match self.get(key) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// The texts of a list; other elements are passed over.
    pub(super) fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.list(key).iter().filter_map(|value| match value {
            Value::Text(text) => Some(&**text),
            _ => None,
        })
    }

    pub(super) fn section(&self, key: &str) -> Option<&Section<'a>> {
        match self.get(key) {
            Some(Value::Section(section)) => Some(section),
            _ => None,
        }
    }

    /// The sections in this one, with their names.
    pub(super) fn sections(&self) -> impl Iterator<Item = (&'a str, &Section<'a>)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((*name, section)),
            _ => None,
        })
    }
}

/// Parses a whole text, which was read from byte `offset` of its device.
pub(super) fn parse(text: &str, offset: u64) -> Result<Section<'_>> {
    let mut parser = Parser { text, at: 0, offset, values: 0 };
    parser.section(0)
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes of `text` that are behind us.
    at: usize,
    offset: u64,
    values: u64,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn corrupt(&self, expected: &str) -> Error {
        let found = match self.rest().chars().next() {
            Some(character) => format!("'{}'", escape(character.encode_utf8(&mut [0; 4]).as_bytes())),
            None => "the end of the text".to_owned(),
        };
        let offset = self.offset.saturating_add(to_u64(self.at));
        Error::corrupt("lvm2", "metadata text", offset, found, expected)
    }

    /// Passes blanks, comments and NULs, which pad the text, and tells what comes next.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
            let comment = if trimmed.starts_with('#') { trimmed.find('\n').unwrap_or(trimmed.len()) } else { 0 };
            let passed = rest.len().saturating_sub(trimmed.len()).saturating_add(comment);
            self.at = self.at.saturating_add(passed);
            if comment == 0 {
                return self.rest().chars().next();
            }
        }
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (head, _) = self.rest().split_at_checked(len).unwrap_or_default();
        self.at = self.at.saturating_add(head.len());
        head
    }

    fn expect(&mut self, character: char, expected: &str) -> Result<()> {
        if self.peek() != Some(character) {
            return Err(self.corrupt(expected));
        }
        self.take(character.len_utf8());
        Ok(())
    }

    /// What stands between two braces, or in the whole text at depth 0.
    fn section(&mut self, depth: u64) -> Result<Section<'a>> {
        limits::check("depth of LVM metadata", depth, DEPTH)?;
        let mut section = Section::default();
        loop {
            match self.peek() {
                None if depth == 0 => return Ok(section),
                Some('}') if depth > 0 => {
                    self.take(1);
                    return Ok(section);
                }
                _ => {}
            }
            self.count()?;
            let key = self.key()?;
            let value = match self.peek() {
                Some('{') => {
                    self.take(1);
                    Value::Section(self.section(depth.saturating_add(1))?)
                }
                Some('=') => {
                    self.take(1);
                    self.value()?
                }
                _ => return Err(self.corrupt("'=' or '{' after a name")),
            };
            section.0.push((key, value));
        }
    }

    fn count(&mut self) -> Result<()> {
        self.values = self.values.saturating_add(1);
        limits::check("values in LVM metadata", self.values, VALUES).map(drop)
    }

    fn key(&mut self) -> Result<&'a str> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/');
        let rest = self.rest();
        match rest.find(|c: char| !is_name(c)).unwrap_or(rest.len()) {
            0 => Err(self.corrupt("a name")),
            len => Ok(self.take(len)),
        }
    }

    fn value(&mut self) -> Result<Value<'a>> {
        if self.peek() != Some('[') {
            return self.scalar();
        }
        self.take(1);
        let mut list = Vec::new();
        loop {
            if self.peek() == Some(']') {
                self.take(1);
                return Ok(Value::List(list));
            }
            self.count()?;
            list.push(self.scalar()?);
            if self.peek() != Some(']') {
                self.expect(',', "',' or ']' in a list")?;
            }
        }
    }

    fn scalar(&mut self) -> Result<Value<'a>> {
        match self.peek() {
            Some('"') => self.string(),
            Some('0'..='9' | '+' | '-' | '.') => self.number(),
            _ => Err(self.corrupt("a number or a string")),
        }
    }

    fn number(&mut self) -> Result<Value<'a>> {
        let rest = self.rest();
        let len = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.')).unwrap_or(rest.len());
        let digits = rest.get(..len).unwrap_or_default();
        let value = if digits.contains('.') {
            Value::Float
        } else {
            Value::Number(digits.parse().map_err(|_| self.corrupt("an unsigned 64-bit number"))?)
        };
        self.take(len);
        Ok(value)
    }

    fn string(&mut self) -> Result<Value<'a>> {
        self.take(1);
        let rest = self.rest();
        let mut escaped = false;
        let mut plain = true;
        for (at, character) in rest.char_indices() {
            match character {
                _ if escaped => escaped = false,
                '\\' => (escaped, plain) = (true, false),
                '"' => {
                    let text = self.take(at);
                    self.take(1);
                    return Ok(Value::Text(if plain { text.into() } else { unescape(text).into() }));
                }
                _ => {}
            }
        }
        Err(self.corrupt("a string that ends"))
    }
}

/// A backslash makes the next character plain.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_grammar() {
        let text = "vg-0.a+b { # a comment with } and \"\nid = \"x\\\"y\\\\z\" seqno=7\nratio = 0.5\nflags = []\n\
                    stripes = [\n\"pv0\", 0,\n\"pv1\",12]\n inner{a=1}\n}\n# end\ncontents = \"Text\"\0\0";
        let file = parse(text, 0).unwrap();
        let vg = file.section("vg-0.a+b").unwrap();
        assert_eq!(vg.text("id"), Some("x\"y\\z"));
        assert_eq!(vg.number("seqno"), Some(7));
        assert_eq!(vg.get("ratio"), Some(&Value::Float));
        assert_eq!(vg.list("flags"), []);
        let pv = |name: &'static str| Value::Text(name.into());
        assert_eq!(vg.list("stripes"), [pv("pv0"), Value::Number(0), pv("pv1"), Value::Number(12)]);
        assert_eq!(vg.texts("stripes").collect::<Vec<_>>(), ["pv0", "pv1"]);
        assert_eq!(vg.sections().map(|(name, _)| name).collect::<Vec<_>>(), ["inner"]);
        assert_eq!(file.text("contents"), Some("Text"));
        assert_eq!(parse("", 0).unwrap(), Section::default());
    }

    #[test]
    fn broken_text_is_told_with_its_place() {
        for (text, offset) in [
            ("a", 101),
            ("a = ", 104),
            ("a = \"x", 105),
            ("a { b = 1", 109),
            ("}", 100),
            ("a = [1 2]", 107),
            ("a = 99999999999999999999", 104),
            ("a = -1", 104),
            ("é = 1", 100),
        ] {
            let error = parse(text, 100).unwrap_err();
            let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{text}: {error}"));
            assert_eq!((corrupt.field, corrupt.offset), ("metadata text", offset), "{text}: {error}");
        }
    }

    #[test]
    fn depth_and_count_are_limited() {
        assert_eq!(parse(&"a{".repeat(1_000_000), 0).unwrap_err().exit_code(), 4);
        assert_eq!(parse(&format!("a=[{}]", "1,".repeat(500_000)), 0).unwrap_err().exit_code(), 4);
    }
}

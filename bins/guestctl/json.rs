//! JSON that is inert on a terminal: characters that steer one are written as `\uNNNN`, which is the same text to any
//! parser. They can only stand in strings, so the formatter's string fragments are where they are caught, and nothing
//! is ever built up in memory.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::print::steers;

/// A value as indented JSON and a newline.
pub fn pretty(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut out, Inert(PrettyFormatter::new())))?;
    out.write_all(b"\n")
}

/// A value as one line of JSON.
pub fn line(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut out, Inert(CompactFormatter)))?;
    out.write_all(b"\n")
}

/// Any layout, with inert strings.
struct Inert<F>(F);

impl<F: Formatter> Formatter for Inert<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        // Plain text is the rule: all ASCII but DEL is fine, serde_json has escaped the control characters before it.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return out.write_all(fragment.as_bytes());
        }
        let mut written = 0;
        for (at, character) in fragment.char_indices().filter(|(_, character)| steers(*character)) {
            write!(out, "{}\\u{:04x}", &fragment[written..at], u32::from(character))?;
            written = at + character.len_utf8();
        }
        out.write_all(&fragment.as_bytes()[written..])
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_that_steers_a_terminal_comes_out_and_nothing_is_lost() {
        let text = "a\u{7f}b\u{85}c\u{202e}d\u{1b}e\u{feff}é\n";
        let (mut pretty, mut line) = (Vec::new(), Vec::new());
        super::pretty(&mut pretty, &text).unwrap();
        super::line(&mut line, &text).unwrap();
        assert_eq!(String::from_utf8(line.clone()).unwrap(), "\"a\\u007fb\\u0085c\\u202ed\\u001be\\ufeffé\\n\"\n");
        assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
        assert_eq!(pretty, line);
    }
}

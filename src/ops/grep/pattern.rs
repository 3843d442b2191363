//! Patterns: the syntax of Rust's regex crate, fixed strings, or POSIX's basic and extended expressions with the GNU
//! additions, which are written anew for the crate.

use regex::bytes::{Regex, RegexBuilder};

use crate::bytes::escape;
use crate::error::{Error, Result};

/// How patterns are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// As Rust's regex crate has it.
    #[default]
    Rust,
    /// POSIX basic regular expressions, as grep(1) takes them.
    Basic,
    /// POSIX extended regular expressions, as `grep -E` takes them.
    Extended,
    /// The text itself.
    Fixed,
}

/// What is searched for.
#[derive(Debug, Clone, Default)]
pub struct Pattern {
    /// Alternatives.
    pub alternatives: Vec<String>,
    /// How they are written.
    pub syntax: Syntax,
    /// Whether letters match in either case.
    pub ignore_case: bool,
    /// Whether a match must be a word.
    pub word: bool,
    /// Whether a match must be a whole line.
    pub line: bool,
}

/// Bytes of memory for a compiled pattern.
const COMPILED: usize = 64 << 20;

impl Pattern {
    /// The expression that finds matches in text of several lines. A match that passes a line's end must be looked at again
    /// within the line.
    pub(super) fn compile(&self) -> Result<Regex> {
        let alternatives = self.alternatives.iter().flat_map(|text| text.split('\n'));
        let written = |text: &str| match self.syntax {
            Syntax::Rust => Ok(text.to_owned()),
            Syntax::Fixed => Ok(regex::escape(text)),
            Syntax::Basic => posix(text, false),
            Syntax::Extended => posix(text, true),
        };
        let mut all = Vec::new();
        for alternative in alternatives {
            let text = written(alternative)?;
            // Each on its own first, so that parentheses of one cannot close those around it.
            let alone = RegexBuilder::new(&text).size_limit(COMPILED).build();
            alone.map_err(|error| {
                Error::invalid(format!("the pattern '{}': {error}", escape(alternative.as_bytes())))
            })?;
            all.push(format!("(?:{text})"));
        }
        let mut text = all.join("|");
        if self.line {
            text = format!("^(?:{text})$");
        } else if self.word {
            text = format!(r"\b{{start-half}}(?:{text})\b{{end-half}}");
        }
        let mut builder = RegexBuilder::new(&text);
        let regex = builder.multi_line(true).case_insensitive(self.ignore_case).size_limit(COMPILED).build();
        regex.map_err(|error| Error::invalid(format!("the pattern: {error}")))
    }

    /// Whether text of several lines must not be searched at once: `\A` and `\z` would mean its ends, and so would `^` and
    /// `$` when a flag is switched off.
    pub(super) fn is_line_bound(&self) -> bool {
        let bound =
            |text: &String| text.contains("\\A") || text.contains("\\z") || text.contains("(?") && text.contains('-');
        self.syntax == Syntax::Rust && self.alternatives.iter().any(bound)
    }
}

/// A POSIX expression in the crate's syntax.
fn posix(text: &str, extended: bool) -> Result<String> {
    let refused =
        |what: &str| Error::unsupported("regular expression", format!("{what} in '{}'", escape(text.as_bytes())));
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    // Where a basic expression begins: `*` is itself here and `^` an anchor.
    let mut begins = true;
    while let Some(character) = rest.next() {
        let began = std::mem::take(&mut begins);
        match character {
            '\\' => match rest.next() {
                None => {
                    return Err(Error::invalid(format!(
                        "the pattern '{}': trailing backslash",
                        escape(text.as_bytes())
                    )));
                }
                Some('1'..='9') => return Err(refused("a back-reference")),
                Some('<') => out.push_str(r"\b{start}"),
                Some('>') => out.push_str(r"\b{end}"),
                Some('`') => out.push('^'),
                Some('\'') => out.push('$'),
                Some(class @ ('w' | 'W' | 's' | 'S' | 'b' | 'B')) => {
                    out.push('\\');
                    out.push(class);
                }
                Some(operator @ ('(' | '|')) if !extended => {
                    out.push(operator);
                    begins = true;
                }
                Some(operator @ (')' | '+' | '?')) if !extended => out.push(operator),
                Some('{') if !extended => interval(&mut rest, &mut out, "\\}")?,
                Some(other) => literal(other, &mut out),
            },
            '[' => bracket(&mut rest, &mut out, text)?,
            '*' if began => literal('*', &mut out),
            '.' | '*' => out.push(character),
            '^' if extended || began => {
                out.push('^');
                begins = !extended;
            }
            '$' if extended || ends(&rest) => out.push('$'),
            '{' if extended && rest.peek().is_some_and(|next| next.is_ascii_digit() || *next == ',') => {
                interval(&mut rest, &mut out, "}")?;
            }
            '(' | ')' | '|' | '+' | '?' if extended => {
                out.push(character);
                begins = matches!(character, '(' | '|');
            }
            other => literal(other, &mut out),
        }
    }
    Ok(out)
}

/// Whether a basic expression, or a group in it, ends here: `$` is an anchor.
fn ends(rest: &std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let mut rest = rest.clone();
    match rest.next() {
        None => true,
        Some('\\') => matches!(rest.next(), Some(')' | '|')),
        Some(_) => false,
    }
}

fn literal(character: char, out: &mut String) {
    out.push_str(&regex::escape(character.encode_utf8(&mut [0; 4])));
}

/// `{2,5}`, up to `close`; without a first number that is 0.
fn interval(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String, close: &str) -> Result<()> {
    let text: String = rest.clone().collect();
    let Some((numbers, _)) = text.split_once(close) else {
        return Err(Error::invalid("the pattern: an interval has no end"));
    };
    if !numbers.chars().all(|character| character.is_ascii_digit() || character == ',') {
        return Err(Error::invalid("the pattern: an interval holds numbers"));
    }
    let zero = if numbers.starts_with(',') { "0" } else { "" };
    out.push_str(&format!("{{{zero}{numbers}}}"));
    for _ in 0..numbers.len() + close.len() {
        rest.next();
    }
    Ok(())
}

/// `[^]a-z[:digit:]]`: a backslash is itself, and so is what the crate would take for an operator.
fn bracket(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String, text: &str) -> Result<()> {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        let Some(character) = rest.next() else {
            return Err(Error::invalid(format!("the pattern '{}': '[' has no ']'", escape(text.as_bytes()))));
        };
        match character {
            ']' if !first => break,
            '[' if rest.peek() == Some(&':') => {
                let class: String = rest.clone().collect();
                let Some((name, _)) = class[1..].split_once(":]") else {
                    return Err(Error::invalid(format!("the pattern '{}': '[:' has no ':]'", escape(text.as_bytes()))));
                };
                out.push_str(&format!("[:{name}:]"));
                for _ in 0..name.chars().count() + 3 {
                    rest.next();
                }
            }
            '[' if matches!(rest.peek(), Some('.' | '=')) => {
                return Err(Error::unsupported("regular expression", "collating elements"));
            }
            '-' if first || rest.peek() == Some(&']') => out.push_str("\\-"),
            '-' => out.push('-'),
            '[' | ']' | '\\' | '&' | '~' | '^' => {
                out.push('\\');
                out.push(character);
            }
            other => out.push(other),
        }
        first = false;
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posix_expressions_are_written_anew() {
        for (text, basic, extended) in [
            ("a+b?", r"a\+b\?", "a+b?"),
            (r"a\+b\?", "a+b?", r"a\+b\?"),
            (r"\(a\|b\)*", "(a|b)*", r"\(a\|b\)*"),
            ("(a|b)*", r"\(a\|b\)*", "(a|b)*"),
            ("*a", r"\*a", r"\*a"),
            ("^*a$", r"^\*a$", "^*a$"),
            ("a^b$c", r"a\^b\$c", "a^b$c"),
            (r"a\{2,3\}", "a{2,3}", r"a\{2,3\}"),
            ("a{,3}", r"a\{,3\}", "a{0,3}"),
            ("[^]a-z[:digit:]\\]", r"[^\]a-z[:digit:]\\]", r"[^\]a-z[:digit:]\\]"),
            ("[a&&b]", r"[a\&\&b]", r"[a\&\&b]"),
            (r"\<w\>", r"\b{start}w\b{end}", r"\b{start}w\b{end}"),
            (r"\.", r"\.", r"\."),
        ] {
            assert_eq!(posix(text, false).unwrap(), basic, "basic {text}");
            assert_eq!(posix(text, true).unwrap(), extended, "extended {text}");
        }
        assert_eq!(posix(r"\(a\)\1", false).unwrap_err().exit_code(), 7);
        for bad in ["[a", r"a\", r"a\{2"] {
            assert_eq!(posix(bad, false).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn one_pattern_cannot_close_anothers_parentheses() {
        let pattern = Pattern { alternatives: vec!["a)|(b".to_owned()], ..Pattern::default() };
        assert_eq!(pattern.compile().unwrap_err().exit_code(), 2);
    }
}

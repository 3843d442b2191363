//! Searching one content, line by line, in a buffer that holds as many lines as one read gives and the context of the next.
//!
//! Many lines are searched at once: a match in text of several lines names the first line that may match, and that line is
//! then looked at alone, because a match may pass its end (`\s` matches a line feed).

use std::ops::Range;

use regex::bytes::Regex;

use super::{GrepEvent, GrepMode, GrepOptions};
use crate::error::{ErrorKind, Result};
use crate::limits;
use crate::progress::Progress;

const CHUNK: usize = 128 << 10;
/// A run of zeroes from this length on is passed over.
const LONG_ZEROES: u64 = 1 << 20;

/// Where bytes come from.
pub(super) trait Source {
    /// Fills some of `buf`, which is not empty; 0 at the end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize>;

    /// Passes over the zeroes that come next if they are many and known without reading them; how many they were.
    fn skip_zeroes(&mut self, _at_least: u64) -> Result<u64> {
        Ok(0)
    }
}

impl Source for &[u8] {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = self.len().min(buf.len());
        let (head, rest) = self.split_at(len);
        buf[..len].copy_from_slice(head);
        *self = rest;
        Ok(len)
    }
}

/// A compiled search, for any number of contents.
pub(super) struct Searcher<'a> {
    regex: Regex,
    options: &'a GrepOptions,
    /// Whether each line must be looked at alone.
    line_bound: bool,
    /// Whether an empty line is selected.
    selects_empty: bool,
    progress: &'a dyn Progress,
}

impl<'a> Searcher<'a> {
    pub(super) fn new(options: &'a GrepOptions, progress: &'a dyn Progress) -> Result<Self> {
        let regex = options.pattern.compile()?;
        let selects_empty = regex.is_match(b"") != options.invert;
        Ok(Self { regex, options, line_bound: options.pattern.is_line_bound(), selects_empty, progress })
    }

    /// Searches all of `source`; how many lines were selected, as far as they had to be counted.
    pub(super) fn search(
        &self,
        path: &[u8],
        source: &mut dyn Source,
        emit: &mut dyn FnMut(GrepEvent<'_>) -> Result<()>,
    ) -> Result<u64> {
        let mut search = Search {
            searcher: self,
            path,
            emit,
            buffer: Vec::new(),
            base: 0,
            scanned: 0,
            printed: 0,
            endless: 0,
            line: 1,
            numbered: 0,
            after_left: 0,
            any_printed: false,
            binary: false,
            done: false,
            lines: 0,
            empty_lines: 0,
        };
        search.run(source)?;
        Ok(search.lines)
    }

    /// The first line at or behind `from` in `text`, which consists of whole lines, that the pattern matches.
    fn next_match(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let mut from = from;
        while from < text.len() {
            let line = if self.line_bound {
                let line = line_at(text, from, from);
                if self.regex.is_match(&text[line.clone()]) {
                    return Some(line);
                }
                line
            } else {
                let found = self.regex.find_at(text, from)?;
                if found.start() == text.len() && text.last() == Some(&b'\n') {
                    return None;
                }
                let line = line_at(text, found.start(), from);
                if found.end() <= line.end || self.regex.is_match(&text[line.clone()]) {
                    return Some(line);
                }
                line
            };
            from = line.end + 1;
        }
        None
    }
}

/// The line that holds the byte at `at`, without its end; it does not begin before `from`.
fn line_at(text: &[u8], at: usize, from: usize) -> Range<usize> {
    let start = text[from..at].iter().rposition(|&byte| byte == b'\n').map_or(from, |found| from + found + 1);
    let end = text[at..].iter().position(|&byte| byte == b'\n').map_or(text.len(), |found| at + found);
    start..end
}

struct Search<'s, 'o, 'e> {
    searcher: &'s Searcher<'o>,
    path: &'s [u8],
    emit: &'e mut dyn FnMut(GrepEvent<'_>) -> Result<()>,
    buffer: Vec<u8>,
    /// Where in the content the buffer begins.
    base: u64,
    /// Up to where in the buffer lines were searched.
    scanned: usize,
    /// Up to where in the buffer lines were printed, or cannot be context any more.
    printed: usize,
    /// Up to where the buffer is known to have no line end behind `scanned`.
    endless: usize,
    /// The number of the line that begins at `numbered`.
    line: u64,
    numbered: usize,
    after_left: usize,
    any_printed: bool,
    binary: bool,
    /// Whether enough lines were selected, and only context may follow.
    done: bool,
    /// Selected lines.
    lines: u64,
    /// Selected empty lines that were passed over and not counted yet.
    empty_lines: u64,
}

impl Search<'_, '_, '_> {
    fn run(&mut self, source: &mut dyn Source) -> Result<()> {
        loop {
            let at_end = !self.fill(source)?;
            let whole = if at_end {
                self.buffer.len()
            } else {
                let from = self.scanned.max(self.endless);
                match self.buffer[from..].iter().rposition(|&byte| byte == b'\n') {
                    Some(last) => from + last + 1,
                    None => {
                        self.endless = self.buffer.len();
                        continue;
                    }
                }
            };
            if !self.scan(whole)? || at_end {
                return Ok(());
            }
            self.discard(whole)?;
        }
    }

    /// Reads some more; whether there was any.
    fn fill(&mut self, source: &mut dyn Source) -> Result<bool> {
        let options = self.searcher.options;
        if self.searcher.progress.cancelled() {
            return Err(ErrorKind::Cancelled.into());
        }
        if !options.text {
            let zeroes = source.skip_zeroes(LONG_ZEROES)?;
            if zeroes > 0 {
                // They are line ends in what is not text: the first ends a line, an empty one is seen, the others counted.
                self.binary = true;
                self.buffer.extend_from_slice(b"\n\n");
                self.empty_lines += if self.searcher.selects_empty { zeroes - 2 } else { 0 };
                return Ok(true);
            }
        }
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let len = source.read(&mut self.buffer[old..])?;
        self.buffer.truncate(old + len);
        limits::check("bytes of one line and its context", self.buffer.len() as u64, limits::GREP_LINE_BYTES)?;
        let new = &mut self.buffer[old..];
        if !options.text && (self.binary || new.contains(&0)) {
            self.binary = true;
            new.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'\n');
        }
        Ok(len > 0)
    }

    /// Searches the lines up to `whole`; whether there is more to do.
    fn scan(&mut self, whole: usize) -> Result<bool> {
        let mut at = self.scanned;
        while at < whole {
            let matched = self.searcher.next_match(&self.buffer[..whole], at);
            if self.searcher.options.invert {
                let end = matched.as_ref().map_or(whole, |line| line.start);
                while at < end {
                    let line = line_at(&self.buffer[..whole], at, at);
                    at = line.end + 1;
                    if !self.selected(line)? {
                        return Ok(false);
                    }
                }
                at = matched.map_or(whole, |line| line.end + 1);
            } else if let Some(line) = matched {
                at = line.end + 1;
                if !self.selected(line)? {
                    return Ok(false);
                }
            } else {
                at = whole;
            }
        }
        self.context_behind(whole)?;
        self.scanned = whole;
        let most = self.searcher.options.max_count.unwrap_or(u64::MAX);
        self.lines = self.lines.saturating_add(std::mem::take(&mut self.empty_lines)).min(most);
        self.done |= self.lines >= most;
        Ok(!self.done || self.after_left > 0)
    }

    /// A selected line; whether to go on.
    fn selected(&mut self, line: Range<usize>) -> Result<bool> {
        let options = self.searcher.options;
        if self.done {
            // What follows the last selected line is its context only up to the next that would be selected.
            self.context_behind(line.start)?;
            return Ok(false);
        }
        self.lines += 1;
        self.done = options.max_count.is_some_and(|max| self.lines >= max);
        match options.mode {
            GrepMode::FilesWithMatches | GrepMode::FilesWithoutMatch | GrepMode::Quiet => return Ok(false),
            GrepMode::Count => return Ok(!self.done),
            GrepMode::Lines | GrepMode::OnlyMatching if self.binary => {
                (self.emit)(GrepEvent::Binary { path: self.path })?;
                return Ok(false);
            }
            GrepMode::OnlyMatching => {
                self.only_matching(line)?;
                return Ok(!self.done);
            }
            GrepMode::Lines => {}
        }
        self.context_behind(line.start)?;
        self.context_before(line.start)?;
        self.print(line.clone(), true)?;
        self.after_left = options.after;
        Ok(!self.done || self.after_left > 0)
    }

    fn only_matching(&mut self, line: Range<usize>) -> Result<()> {
        if self.searcher.options.invert {
            return Ok(());
        }
        let line_number = self.number(line.start);
        let text = &self.buffer[line.clone()];
        for found in self.searcher.regex.find_iter(text).filter(|found| !found.is_empty()) {
            let byte_offset = self.base + (line.start + found.start()) as u64;
            (self.emit)(GrepEvent::Line {
                path: self.path,
                line_number,
                byte_offset,
                text: found.as_bytes(),
                selected: true,
                matches: &[],
            })?;
        }
        Ok(())
    }

    /// Prints what still belongs to the last selected line, up to `end`.
    fn context_behind(&mut self, end: usize) -> Result<()> {
        while self.after_left > 0 && self.printed < end {
            let line = line_at(&self.buffer[..end], self.printed, self.printed);
            self.after_left -= 1;
            self.print(line, false)?;
        }
        Ok(())
    }

    /// Prints the lines before the selected line at `start` that were not printed yet.
    fn context_before(&mut self, start: usize) -> Result<()> {
        let options = self.searcher.options;
        let mut first = start;
        for _ in 0..options.before {
            if first <= self.printed {
                break;
            }
            first = line_at(&self.buffer, first - 1, self.printed).start;
        }
        if (options.before > 0 || options.after > 0) && (!self.any_printed || first > self.printed) {
            (self.emit)(GrepEvent::Group)?;
        }
        while first < start {
            let line = line_at(&self.buffer, first, first);
            first = line.end + 1;
            self.print(line, false)?;
        }
        Ok(())
    }

    fn print(&mut self, line: Range<usize>, selected: bool) -> Result<()> {
        self.any_printed = true;
        self.printed = (line.end + 1).min(self.buffer.len());
        let line_number = self.number(line.start);
        let text = &self.buffer[line.clone()];
        let positions = selected && self.searcher.options.positions && !self.searcher.options.invert;
        let matches: Vec<_> = if positions {
            self.searcher.regex.find_iter(text).filter(|found| !found.is_empty()).map(|found| found.range()).collect()
        } else {
            Vec::new()
        };
        let (path, byte_offset) = (self.path, self.base + line.start as u64);
        (self.emit)(GrepEvent::Line { path, line_number, byte_offset, text, selected, matches: &matches })
    }

    /// The number of the line that begins at `start`, when it is wanted.
    fn number(&mut self, start: usize) -> Option<u64> {
        if !self.searcher.options.line_numbers {
            return None;
        }
        if start > self.numbered {
            self.line += self.buffer[self.numbered..start].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.numbered = start;
        }
        Some(self.line)
    }

    /// Forgets the lines before `whole` that cannot be context of what follows.
    fn discard(&mut self, whole: usize) -> Result<()> {
        let mut keep = whole;
        for _ in 0..self.searcher.options.before {
            if keep <= self.printed {
                break;
            }
            keep = line_at(&self.buffer, keep - 1, self.printed).start;
        }
        // Before it nothing will be printed; when that is less than what was printed, nothing lies between.
        self.number(keep);
        let gap = keep > self.printed;
        self.buffer.drain(..keep);
        self.endless = 0;
        self.base += keep as u64;
        self.scanned = whole - keep;
        self.numbered = self.numbered.saturating_sub(keep);
        self.printed = self.printed.saturating_sub(keep);
        if gap {
            self.any_printed = false;
        }
        Ok(())
    }
}

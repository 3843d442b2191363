//! Text databases made of stanzas: runs of lines, an empty line after each. They are read in parts, so that a long file
//! costs no more memory than its longest stanza.

use std::io::BufRead;

use super::Gathered;
use crate::block::BlockDevice;
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;
use crate::limits;

/// Bytes read at a time.
const PART: u64 = 1 << 20;

/// What is done with a stanza's bytes; the number is its byte offset in the file.
type Visit<'a> = dyn FnMut(&[u8], u64, &mut Gathered) -> Result<()> + 'a;

/// Calls `visit` with each stanza of `file`. What it says of one is [tolerated](Gathered::tolerate).
pub(super) fn for_each(file: &dyn BlockDevice, gathered: &mut Gathered, visit: &mut Visit<'_>) -> Result<()> {
    let size = limits::check("bytes of a text package database", file.size(), limits::PACKAGE_TEXT_BYTES)?;
    let mut buffer = Vec::new();
    let mut read = 0u64;
    while read < size {
        let part = size.saturating_sub(read).min(PART);
        let kept = buffer.len();
        buffer.resize(kept.saturating_add(to_usize(part)), 0);
        file.read_exact_at(buffer.get_mut(kept..).unwrap_or_default(), read)?;
        let start = read.saturating_sub(to_u64(kept));
        read = read.saturating_add(part);
        // All but the last part end within some stanza, which waits for the next part.
        let complete = if read == size { buffer.len() } else { last_end(&buffer) };
        visit_all(buffer.get(..complete).unwrap_or_default(), start, gathered, visit)?;
        buffer.drain(..complete);
        limits::check("bytes of a package record", to_u64(buffer.len()), limits::PACKAGE_RECORD_BYTES)?;
    }
    Ok(())
}

/// The end of the last complete stanza in `bytes`.
fn last_end(bytes: &[u8]) -> usize {
    bytes.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at.saturating_add(2))
}

fn visit_all(bytes: &[u8], start: u64, gathered: &mut Gathered, visit: &mut Visit<'_>) -> Result<()> {
    let mut lines = Lines(bytes);
    let mut begin = 0;
    loop {
        let line = lines.next();
        let end = bytes.len().saturating_sub(lines.0.len());
        if line.is_none_or(<[u8]>::is_empty) {
            let stanza = bytes.get(begin..end).unwrap_or_default();
            if stanza.iter().any(|&byte| byte != b'\n') {
                let offset = start.saturating_add(to_u64(begin));
                let outcome = gathered.charge(to_u64(stanza.len())).and_then(|()| visit(stanza, offset, gathered));
                gathered.tolerate(outcome)?;
            }
            begin = end;
        }
        if line.is_none() {
            return Ok(());
        }
    }
}

/// The lines of some bytes, without their ends.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let all = self.0;
        // Reading from a slice does not fail; it searches as fast as the machine can.
        let len = self.0.skip_until(b'\n').unwrap_or(0);
        let line = all.get(..len).filter(|line| !line.is_empty())?;
        Some(line.strip_suffix(b"\n").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    fn stanzas(text: &[u8]) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let device = Memory::new(text.to_vec());
        for_each(&device, &mut Gathered::default(), &mut |stanza, offset, _| {
            found.push((offset, String::from_utf8_lossy(stanza).trim_end().to_owned()));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn stanzas_end_at_empty_lines_and_at_the_end() {
        assert_eq!(stanzas(b""), []);
        assert_eq!(stanzas(b"\n\n\n"), []);
        assert_eq!(stanzas(b"\na\nb\n\n\nc"), [(1, "a\nb".to_owned()), (7, "c".to_owned())]);
    }

    #[test]
    fn a_seam_between_two_parts_is_not_seen() {
        let line = [vec![b'x'; 998], vec![b'\n', b'\n']].concat();
        let text = line.repeat(5_000);
        let found = stanzas(&text);
        assert_eq!(found.len(), 5_000);
        assert!(found.iter().enumerate().all(|(index, (at, text))| *at == index as u64 * 1_000 && text.len() == 998));
    }

    #[test]
    fn an_endless_stanza_is_refused() {
        let device = Memory::new(vec![b'x'; 20 << 20]);
        let outcome = for_each(&device, &mut Gathered::default(), &mut |_, _, _| Ok(()));
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "bytes of a package record is limited to 16777216, the image asks for 17825792"
        );
    }
}

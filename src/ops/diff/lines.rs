//! Which lines two texts have in common, in time that no text can drive up.
//!
//! Myers' algorithm finds the shortest difference and takes up to the square of the lines for it. Stretches that are too
//! long for that are split at lines that stand once on each side, as patience diff does, and what cannot be split so is
//! taken for replaced: a longer difference, but a true one.

use std::collections::HashMap;
use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff};

/// Steps for all stretches of one pair of texts together: a stretch takes the square of its lines. Ours; 11,000 lines
/// without a common one take them all.
const STEPS: u64 = 1 << 27;

/// How often a stretch is split. Ours; each time most lines that stand once are used up.
const SPLITS: u32 = 8;

/// The differences between two lists of lines, in order; equal stretches are among them.
pub(super) fn operations(old: &[&[u8]], new: &[&[u8]]) -> Vec<DiffOp> {
    let mut numbers = HashMap::new();
    let (old, new) = (numbered(old, &mut numbers), numbered(new, &mut numbers));
    let mut common = Common { old: &old, new: &new, steps: STEPS, runs: Vec::new() };
    common.find(0..old.len(), 0..new.len(), SPLITS);
    between(&common.runs, old.len(), new.len())
}

fn numbered<'a>(lines: &[&'a [u8]], numbers: &mut HashMap<&'a [u8], u32>) -> Vec<u32> {
    let number = |line: &&'a [u8]| {
        let next = numbers.len() as u32;
        *numbers.entry(*line).or_insert(next)
    };
    lines.iter().map(number).collect()
}

/// Equal lines: so many, from one line on in each text.
#[derive(Debug, Clone, Copy)]
struct Run {
    old: usize,
    new: usize,
    len: usize,
}

struct Common<'a> {
    old: &'a [u32],
    new: &'a [u32],
    steps: u64,
    runs: Vec<Run>,
}

impl Common<'_> {
    fn find(&mut self, mut old: Range<usize>, mut new: Range<usize>, splits: u32) {
        let pairs = self.old[old.clone()].iter().zip(&self.new[new.clone()]);
        let before = pairs.take_while(|(old, new)| old == new).count();
        self.add(Run { old: old.start, new: new.start, len: before });
        (old.start, new.start) = (old.start + before, new.start + before);
        let pairs = self.old[old.clone()].iter().rev().zip(self.new[new.clone()].iter().rev());
        let behind = pairs.take_while(|(old, new)| old == new).count();
        (old.end, new.end) = (old.end - behind, new.end - behind);
        let tail = Run { old: old.end, new: new.end, len: behind };
        if !old.is_empty() && !new.is_empty() {
            self.between(old, new, splits);
        }
        self.add(tail);
    }

    /// The middle, whose first and last lines differ.
    fn between(&mut self, old: Range<usize>, new: Range<usize>, splits: u32) {
        let lines = (old.len() + new.len()) as u64;
        let steps = lines.saturating_mul(lines);
        if steps <= self.steps {
            self.steps -= steps;
            for operation in capture_diff(Algorithm::Myers, self.old, old, self.new, new) {
                if let DiffOp::Equal { old_index, new_index, len } = operation {
                    self.add(Run { old: old_index, new: new_index, len });
                }
            }
            return;
        }
        let Some(splits) = splits.checked_sub(1) else { return };
        let (mut old_at, mut new_at) = (old.start, new.start);
        for (old_line, new_line) in self.anchors(&old, &new) {
            self.find(old_at..old_line, new_at..new_line, splits);
            self.add(Run { old: old_line, new: new_line, len: 1 });
            (old_at, new_at) = (old_line + 1, new_line + 1);
        }
        if (old_at, new_at) != (old.start, new.start) {
            self.find(old_at..old.end, new_at..new.end, splits);
        }
    }

    /// Lines that stand once in either range: the longest list of pairs that ascends on both sides.
    fn anchors(&self, old: &Range<usize>, new: &Range<usize>) -> Vec<(usize, usize)> {
        let once = |lines: &[u32], range: &Range<usize>| {
            let mut at: HashMap<u32, Option<usize>> = HashMap::new();
            for line in range.clone() {
                at.entry(lines[line]).and_modify(|at| *at = None).or_insert(Some(line));
            }
            at
        };
        let (in_old, in_new) = (once(self.old, old), once(self.new, new));
        let pair = |line: usize| {
            let number = self.old[line];
            in_old.get(&number).copied().flatten()?;
            Some((line, in_new.get(&number).copied().flatten()?))
        };
        let pairs: Vec<(usize, usize)> = old.clone().filter_map(pair).collect();
        // Patience: of each length the list whose last line is the first, and for each pair the one before it.
        let mut tops: Vec<usize> = Vec::new();
        let mut before = vec![None; pairs.len()];
        for (index, (_, line)) in pairs.iter().enumerate() {
            let pile = tops.partition_point(|top| pairs[*top].1 < *line);
            before[index] = pile.checked_sub(1).map(|below| tops[below]);
            match tops.get_mut(pile) {
                Some(top) => *top = index,
                None => tops.push(index),
            }
        }
        let mut chain = Vec::new();
        let mut at = tops.last().copied();
        while let Some(index) = at {
            chain.push(pairs[index]);
            at = before[index];
        }
        chain.reverse();
        chain
    }

    fn add(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if last.old + last.len == run.old && last.new + last.len == run.new => last.len += run.len,
            _ => self.runs.push(run),
        }
    }
}

/// The equal runs, and what lies between them.
fn between(runs: &[Run], old_len: usize, new_len: usize) -> Vec<DiffOp> {
    let mut operations = Vec::new();
    let (mut old_index, mut new_index) = (0, 0);
    let end = Run { old: old_len, new: new_len, len: 0 };
    for Run { old, new, len } in runs.iter().copied().chain([end]) {
        match (old - old_index, new - new_index) {
            (0, 0) => {}
            (0, new_len) => operations.push(DiffOp::Insert { old_index, new_index, new_len }),
            (old_len, 0) => operations.push(DiffOp::Delete { old_index, old_len, new_index }),
            (old_len, new_len) => operations.push(DiffOp::Replace { old_index, old_len, new_index, new_len }),
        }
        if len > 0 {
            operations.push(DiffOp::Equal { old_index: old, new_index: new, len });
        }
        (old_index, new_index) = (old + len, new + len);
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the operations make of the old lines.
    fn applied<'a>(old: &[&'a [u8]], new: &[&'a [u8]]) -> (Vec<&'a [u8]>, usize) {
        let (mut made, mut at, mut edits) = (Vec::new(), 0, 0);
        for operation in operations(old, new) {
            let (_, from, to) = operation.as_tag_tuple();
            assert_eq!(from.start, at, "operations join");
            assert_eq!(to.start, made.len(), "operations join");
            at = from.end;
            match operation {
                DiffOp::Equal { .. } => made.extend(&old[from]),
                _ => {
                    edits += from.len() + to.len();
                    made.extend(&new[to]);
                }
            }
        }
        assert_eq!(at, old.len());
        (made, edits)
    }

    #[test]
    fn small_texts_get_the_shortest_difference() {
        let lines = |text: &'static str| text.as_bytes().chunks(1).collect::<Vec<_>>();
        for (old, new, shortest) in
            [("abcabba", "cbabac", 5), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("axc", "abc", 2)]
        {
            let (old, new) = (lines(old), lines(new));
            assert_eq!(applied(&old, &new), (new.clone(), shortest));
        }
    }

    #[test]
    fn long_texts_are_split_at_lines_that_stand_once() {
        let old: Vec<String> = (0..60_000).map(|n| if n % 3 == 0 { "}".to_owned() } else { n.to_string() }).collect();
        let mut new = old.clone();
        new.remove(59_000);
        new[30_001] = "changed".to_owned();
        new.insert(10, "}".to_owned());
        let bytes = |lines: &[String]| lines.iter().map(|line| line.clone().into_bytes()).collect::<Vec<_>>();
        let (old, new) = (bytes(&old), bytes(&new));
        let old: Vec<&[u8]> = old.iter().map(Vec::as_slice).collect();
        let new: Vec<&[u8]> = new.iter().map(Vec::as_slice).collect();
        assert_eq!(applied(&old, &new), (new.clone(), 4));
    }

    #[test]
    fn hostile_texts_take_no_time_and_stay_true() {
        // Two shuffles of the same lines, twice each, so that no line stands once.
        let lines: Vec<Vec<u8>> = (0..50_000u32).map(|n| (n % 25_000).to_le_bytes().to_vec()).collect();
        let old: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let new: Vec<&[u8]> = (0..50_000).map(|n| old[n * 7_919 % 50_000]).collect();
        let begun = std::time::Instant::now();
        assert_eq!(applied(&old, &new).0, new);
        // Few different lines, as many as Myers is given.
        for (symbols, step) in [(1u8, 1usize), (2, 2), (2, 3), (3, 2), (50, 7), (251, 11)] {
            let symbols: Vec<[u8; 1]> = (0..symbols).map(|symbol| [symbol]).collect();
            let pick = |at: usize| symbols[at % symbols.len()].as_slice();
            let old: Vec<&[u8]> = (0..5_500).map(pick).collect();
            let new: Vec<&[u8]> = (0..5_700).map(|at| pick(at * step * step + at / 13)).collect();
            assert_eq!(applied(&old, &new).0, new);
            assert_eq!(applied(&new, &old).0, old);
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}

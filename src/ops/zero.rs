//! Finding zeroes in bytes.

use std::ops::Range;

/// Whether all bytes are zero. As fast as memory: each byte is compared with its neighbour in one memcmp(3), which stops
/// at the first that differs.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && *rest == bytes[..rest.len()],
    }
}

pub(super) fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}

/// Calls `visit` with runs of units of `bytes` that are all zero, or all not; `unit` bytes each but for the last.
pub(super) fn for_each_run<E>(
    bytes: &[u8],
    unit: usize,
    visit: &mut dyn FnMut(Range<usize>, bool) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Option<(Range<usize>, bool)> = None;
    for (index, chunk) in bytes.chunks(unit).enumerate() {
        let range = index * unit..index * unit + chunk.len();
        let zero = is_zero(chunk);
        pending = match pending {
            Some((run, kind)) if kind == zero => Some((run.start..range.end, kind)),
            Some((run, kind)) => {
                visit(run, kind)?;
                Some((range, zero))
            }
            None => Some((range, zero)),
        };
    }
    pending.map_or(Ok(()), |(run, kind)| visit(run, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_seen() {
        assert!(is_zero(&[]));
        for len in [1usize, 2, 7, 8, 64, 4096, 4097] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn runs_are_merged_and_cover_all_bytes() {
        let bytes = [0, 0, 0, 1, 0, 0, 0, 0, 1u8];
        let mut runs = Vec::new();
        for_each_run(&bytes, 2, &mut |run, zero| {
            runs.push((run, zero));
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(runs, [(0..2, true), (2..4, false), (4..8, true), (8..9, false)]);
    }
}

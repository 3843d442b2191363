//! pax extended headers: what a ustar header has no room for, as records of text.
//!
//! A record is `"%d %s=%s\n"`: its own length in bytes with that number, the keyword, the value. Source: POSIX.1-2017,
//! pax, "pax Extended Header". Values are bytes; where a name is not UTF-8, `hdrcharset=BINARY` says so.

use crate::fs::Timestamp;

/// The records of one entry.
#[derive(Debug, Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// One more record.
    pub(super) fn push(&mut self, keyword: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (keyword, value) = (keyword.as_ref(), value.as_ref());
        let without = keyword.len() + value.len() + 3;
        // The length counts its own digits.
        let mut len = without + digits(without);
        len = without + digits(len);
        self.bytes.extend_from_slice(format!("{len} ").as_bytes());
        self.bytes.extend_from_slice(keyword);
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// A time in decimal seconds, without zeroes at its end.
pub(super) fn seconds(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    // Nanoseconds count forward; a number before zero is written with its distance from zero.
    let (sign, whole, part) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    format!("{sign}{whole}.{part:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let record = |value: &str| {
            let mut records = Records::default();
            records.push("path", value);
            String::from_utf8(records.bytes).unwrap()
        };
        assert_eq!(record("a"), "9 path=a\n");
        // One digit more makes it one longer: 9 + 90 = 99 would be 100 with its own digits.
        for len in 0..3000 {
            let text = record(&"n".repeat(len));
            let (number, _) = text.split_once(' ').unwrap();
            assert_eq!(number.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn times_before_and_after_zero() {
        let text = |s, n| seconds(Timestamp { seconds: s, nanoseconds: n });
        assert_eq!(text(-1, 500_000_000), "-0.5");
        assert_eq!(text(-2, 999_999_999), "-1.000000001");
        assert_eq!(text(4_102_444_800, 1), "4102444800.000000001");
        assert_eq!(text(-315_619_200, 0), "-315619200");
    }
}

//! DOS dates and times.
//!
//! | bits of the date | meaning | | bits of the time | meaning |
//! |---|---|---|---|---|
//! | 0–4 | day, 1–31 | | 0–4 | seconds / 2, 0–29 |
//! | 5–8 | month, 1–12 | | 5–10 | minutes, 0–59 |
//! | 9–15 | year − 1980 | | 11–15 | hours, 0–23 |
//!
//! They say local time without saying where; they are read as UTC, which is what Linux does on a machine whose kernel
//! clock has no zone (`mount -o tz=UTC`). Impossible values are not refused: they are counted on, as Linux counts (31
//! February is 3 March, month 0 and 13 are January), so that a listing shows what the kernel would show.

use crate::fs::Timestamp;

/// Days from 1970 to 1980.
const EPOCH_DAYS: u32 = 3_652;

/// Days before each month of a common year, by the month's number; 0 and 13 to 15 do not exist.
const DAYS_BEFORE: [u32; 16] = [0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 0, 0, 0];

/// The point in time; `hundredths` (0 to 199) is the creation time's finer part.
pub(super) fn timestamp(date: u16, time: u16, hundredths: u8) -> Timestamp {
    let (date, time, hundredths) = (u32::from(date), u32::from(time), u32::from(hundredths));
    let year = date >> 9;
    let month = ((date >> 5) & 0xf).max(1);
    let day = (date & 0x1f).max(1);
    // 1980 is a leap year, 2100 (year 120) is none.
    let is_leap = year.is_multiple_of(4) && year != 120;
    let leap_days = (year.saturating_add(3) >> 2)
        .saturating_sub(u32::from(year > 120))
        .saturating_add(u32::from(is_leap && month > 2));
    let before = usize::try_from(month).ok().and_then(|month| DAYS_BEFORE.get(month)).copied().unwrap_or(0);
    let days = year.saturating_mul(365).saturating_add(leap_days).saturating_add(before).saturating_add(day);
    let days = days.saturating_sub(1).saturating_add(EPOCH_DAYS);
    let of_day = (time >> 11).saturating_mul(3600).saturating_add(((time >> 5) & 0x3f).saturating_mul(60));
    let of_day = of_day.saturating_add((time & 0x1f).saturating_mul(2));
    let (second, rest) = (u32::from(hundredths >= 100), hundredths.checked_rem(100).unwrap_or(0));
    let seconds = i64::from(days).saturating_mul(86_400).saturating_add(i64::from(of_day.saturating_add(second)));
    Timestamp { seconds, nanoseconds: rest.saturating_mul(10_000_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u16, month: u16, day: u16) -> u16 {
        ((year - 1980) << 9) | (month << 5) | day
    }

    #[test]
    fn dates_agree_with_date_1() {
        // `date -u -d '…' +%s`
        let cases = [
            (date(1980, 1, 1), 0, 315_532_800),
            (date(2000, 2, 29), (23 << 11) | (59 << 5) | 29, 951_868_798),
            (date(2000, 3, 1), 0, 951_868_800),
            (date(2026, 11, 21), (10 << 11) | (30 << 5), 1_795_257_000),
            (date(2100, 3, 1), 0, 4_107_542_400),
            (date(2107, 12, 31), (23 << 11) | (59 << 5) | 29, 4_354_819_198),
            (0, 0, 315_532_800),
            (date(2001, 2, 31), 0, 983_577_600),
        ];
        for (date, time, seconds) in cases {
            assert_eq!(timestamp(date, time, 0), Timestamp { seconds, nanoseconds: 0 }, "{date:#x}");
        }
        let fine = timestamp(date(1980, 1, 1), 1, 199);
        assert_eq!(fine, Timestamp { seconds: 315_532_803, nanoseconds: 990_000_000 });
    }
}

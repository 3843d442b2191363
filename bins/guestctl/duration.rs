//! Times as people write them: `90`, `1.5s`, `250ms`, `5m`, `2h`, `30d`; without a unit they are seconds.

use std::time::Duration;

/// The time that a text means.
pub fn parse(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err("a time is a number with ms, s, m, h or d".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a time begins with a number".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| "the time is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn times_have_units() {
        let times = ["0", "90", "1.5s", "250ms", "5m", "2h", "1d"].map(|text| parse(text).unwrap().as_millis());
        assert_eq!(times, [0, 90_000, 1500, 250, 300_000, 7_200_000, 86_400_000]);
        for text in ["", "s", "1 s", "5x", "1.2.3", "-1", "999999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

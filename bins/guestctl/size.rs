//! Sizes as people write them: `512`, `64k`, `1.5G`; units are binary, as in qemu-img.

/// Bytes of a size.
pub fn parse(text: &str) -> Result<u64, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.strip_suffix("iB").or(unit.strip_suffix('B').filter(|rest| !rest.is_empty())).unwrap_or(unit);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return Err("a size is a number with k, M, G, T, P or E".to_owned()),
    };
    let too_large = || "the size is larger than 8 EiB".to_owned();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| "a size begins with a number".to_owned())?;
    let mut bytes = whole.checked_mul(1 << shift).filter(|bytes| *bytes < 1 << 63).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        let digits: f64 = format!("0.{fraction}").parse().map_err(|_| "a size is a number".to_owned())?;
        bytes = bytes.checked_add((digits * (1u64 << shift) as f64) as u64).ok_or_else(too_large)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_are_binary_and_nonsense_is_refused() {
        let sizes = ["0", "512", "64k", "1.5G", "2T", "7M", "10GiB", "3b", "1KB"].map(|text| parse(text).unwrap());
        assert_eq!(sizes, [0, 512, 65536, 3 << 29, 2 << 40, 7 << 20, 10 << 30, 3, 1024]);
        for bad in ["", "k", "-1", "1X", "9E", "16E", "1..5G", "1.x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

//! CRC-32C as ext4 uses it: a running value that is neither inverted at the start nor at the end. The `crc32c` crate
//! inverts at both ends, as the standard says; this undoes it.

/// The checksum `seed` continued over `bytes`.
pub(super) fn extend(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

#[cfg(test)]
mod tests {
    /// The standard check value of CRC-32C is 0xe3069283 for "123456789" with inversion at both ends.
    #[test]
    fn agrees_with_the_published_check_value() {
        assert_eq!(!super::extend(!0, b"123456789"), 0xe306_9283);
        assert_eq!(super::extend(super::extend(!0, b"12345"), b"6789"), super::extend(!0, b"123456789"));
    }
}

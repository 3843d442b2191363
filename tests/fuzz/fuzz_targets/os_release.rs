//! os-release and what is made of it: no panic, and never more fields than the limit.
#![no_main]

use guestctl::inspect::{Version, distro, natural_order, os_release};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let release = os_release::parse(&text);
    assert!(release.fields.len() <= 1_024);
    if let Some(id) = &release.id {
        let major = release.version.as_ref().map_or(0, |version| version.major);
        let _ = distro::packaging(&distro::word(id), &release.id_like, major, false, false);
        let _ = distro::osinfo(&distro::word(id), release.version.as_ref());
    }
    let _ = Version::of_version_id(&text);
    let (left, right) = bytes.split_at(bytes.len() / 2);
    let (left, right) = (String::from_utf8_lossy(left), String::from_utf8_lossy(right));
    assert_eq!(natural_order(&left, &right), natural_order(&right, &left).reverse());
});

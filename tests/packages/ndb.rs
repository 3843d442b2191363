//! `Packages.db`, made by hand from the layout in RPM's `lib/backend/ndb` around headers that RPM wrote: no RPM in Debian
//! writes this format. The checksum at a blob's end is left at zero, which RPM does not look at either.

use super::rpm::{expected, headers};
use super::{TreeFs, assert_same, complete, list};

const BLOCK: usize = 16;
const PAGE: usize = 4_096;

/// A database of these headers, with a free slot before each.
pub(super) fn database(headers: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let slot_pages = (2 + 2 * headers.len()).div_ceil(PAGE / BLOCK);
    let mut slots =
        [b"RpmP".to_vec(), [0, 1, slot_pages as u32, 1_000].map(u32::to_le_bytes).concat(), vec![0; 12]].concat();
    let mut blobs = Vec::new();
    for (package, header) in headers {
        let first = slot_pages * PAGE / BLOCK + blobs.len() / BLOCK;
        let blocks = (16 + header.len() + 12).div_ceil(BLOCK);
        let padding = blocks * BLOCK - (16 + header.len() + 12);
        let len = header.len() as u32;
        slots.extend([b"Slot".to_vec(), vec![0; 12]].concat());
        slots.extend(
            [b"Slot".to_vec(), [*package, first as u32, blocks as u32].map(u32::to_le_bytes).concat()].concat(),
        );
        blobs.extend([b"BlbS".to_vec(), [*package, 1_700_000_000, len].map(u32::to_le_bytes).concat()].concat());
        blobs.extend_from_slice(header);
        blobs.extend(vec![0; padding]);
        blobs.extend([[0, len].map(u32::to_le_bytes).concat(), b"BlbE".to_vec()].concat());
    }
    while slots.len() < slot_pages * PAGE {
        slots.extend([b"Slot".to_vec(), vec![0; 12]].concat());
    }
    [slots, blobs].concat()
}

#[test]
fn headers_in_slots_are_found() {
    let Some(mut headers) = headers() else { return };
    // Slots in another order than the blobs, as after removals.
    headers.reverse();
    let list = list(TreeFs::new().file("/usr/lib/sysimage/rpm/Packages.db", database(&headers)));
    assert_eq!(list.source, "/usr/lib/sysimage/rpm/Packages.db");
    assert_same(&complete(list), &expected(), "");
}

//! Partition tables over arbitrary bytes: errors are fine, panics and endless chains are not, and every partition that
//! is handed out lies inside the disk.
#![no_main]

use std::sync::Arc;

use guestctl::block::{BlockDevice, Memory};
use guestctl::volume::scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let disk: Arc<dyn BlockDevice> = Arc::new(Memory::new(data.to_vec()));
    if let Ok(Some(table)) = scan(&disk) {
        for partition in &table.partitions {
            let device = partition.device(&disk).expect("a partition lies inside its disk");
            assert_eq!(device.size(), partition.size);
        }
    }
});

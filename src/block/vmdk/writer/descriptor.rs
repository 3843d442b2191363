//! The text of a new image's descriptor. The data base is QEMU's: an IDE disk of 16 heads and 63 sectors, hardware
//! version 4.

use super::super::descriptor::{ExtentType, NO_PARENT, SIGNATURE};
use super::super::header::SECTOR;

/// One extent line.
pub(super) struct Line {
    pub(super) size: u64,
    pub(super) kind: ExtentType,
    pub(super) file: String,
}

/// The descriptor of a disk of `size` bytes.
pub(super) fn text(create_type: &str, cid: u32, size: u64, lines: &[Line]) -> String {
    let extents: String = lines.iter().map(line).collect();
    let cylinders = size.checked_div(16 * 63 * SECTOR).unwrap_or(0);
    format!(
        "{SIGNATURE}\nversion=1\nCID={cid:08x}\nparentCID={NO_PARENT:08x}\ncreateType=\"{create_type}\"\n\n\
         # Extent description\n{extents}\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"4\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n\
         ddb.adapterType = \"ide\"\nddb.toolsVersion = \"2147483647\"\n"
    )
}

fn line(line: &Line) -> String {
    let sectors = line.size.checked_div(SECTOR).unwrap_or(0);
    let offset = if line.kind == ExtentType::Flat { " 0" } else { "" };
    format!("RW {sectors} {} \"{}\"{offset}\n", line.kind.name(), line.file)
}

#[cfg(test)]
mod tests {
    use super::super::super::descriptor::parse;
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let lines = [
            Line { size: 1024, kind: ExtentType::Flat, file: "a b.vmdk".to_owned() },
            Line { size: 512, kind: ExtentType::Sparse, file: "é.vmdk".to_owned() },
        ];
        let read = parse(text("custom", 0xab, 1536, &lines).as_bytes(), 0).unwrap();
        assert_eq!((read.cid, read.parent_cid, read.create_type.as_str()), (0xab, NO_PARENT, "custom"));
        let extents: Vec<_> = read.extents.iter().map(|e| (e.size, e.kind, e.file.as_str(), e.offset)).collect();
        assert_eq!(extents, [(1024, ExtentType::Flat, "a b.vmdk", 0), (512, ExtentType::Sparse, "é.vmdk", 0)]);
    }
}

//! OVA: an OVF package in one tar, read in place. DMTF DSP0243, *Open Virtualization Format Specification* 2.1, section
//! 5.3.
//!
//! The first `.ovf` member describes the machine; its first disk is opened, or the one that a fragment names:
//! `machine.ova#disk2.vmdk` by member or by diskId. Without a description that names a disk, a single member that looks
//! like a disk by its extension is taken.
//!
//! A disk in an OVA may name no other file: there is no directory it could mean. Refused by name: compressed and chunked
//! disks, an OVA inside an OVA.

mod ovf;
mod tar;

use std::path::Path;
use std::sync::Arc;

use super::gate::DenyAll;
use super::open::{Image, OpenContext, open_format};
use super::probe::{ImageFormat, probe};
use super::{BlockDevice, Slice};
use crate::bytes::escape;
use crate::error::{Error, Result};

use ovf::Disk;
use tar::Member;

const FORMAT: &str = "ova";
const EXTENSIONS: [&str; 4] = ["vmdk", "qcow2", "img", "raw"];

/// Opens the disk that `context.snapshot` names, or the first.
pub(super) fn open(file: &Arc<dyn BlockDevice>, context: &OpenContext<'_>) -> Result<Image> {
    let members = tar::members(file)?;
    let described = match members.iter().find(|member| has_extension(member, &["ovf"])) {
        Some(description) => {
            let text = tar::contents(file, description)?;
            if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
                return Err(Error::unsupported(FORMAT, "an OVF description in UTF-16"));
            }
            ovf::disks(&String::from_utf8_lossy(&text))
        }
        None => Vec::new(),
    };
    let member = match context.snapshot {
        Some(name) => named(&members, &described, name)?,
        None => first(&members, &described)?,
    };
    log::debug!("{}: disk {}", context.path.display(), escape(member.name.as_bytes()));
    open_member(file, member, context)
        .map_err(|error| error.in_image(format!("{}#{}", context.path.display(), escape(member.name.as_bytes()))))
}

fn open_member(file: &Arc<dyn BlockDevice>, member: &Member, context: &OpenContext<'_>) -> Result<Image> {
    let slice: Arc<dyn BlockDevice> = Arc::new(Slice::new(file.clone(), member.offset, member.size)?);
    let format = probe(&slice)?;
    if format == ImageFormat::Ova {
        return Err(Error::unsupported(FORMAT, "an ova inside an ova"));
    }
    let path = Path::new(&member.name);
    let inner = OpenContext { path, gate: &DenyAll, depth: context.depth, follow: context.follow, snapshot: None };
    let mut image = open_format(slice, Some(format), &inner)?;
    image.info.format = ImageFormat::Ova;
    Ok(image)
}

/// The disk that a fragment names, by member or diskId.
fn named<'a>(members: &'a [Member], described: &[Disk], name: &str) -> Result<&'a Member> {
    if let Some(disk) = described.iter().find(|disk| disk.id == name || disk.href == name) {
        return of_disk(members, disk);
    }
    members.iter().find(|member| member.name == name).ok_or_else(|| {
        Error::invalid(format!("there is no disk '{}' in the ova", escape(name.as_bytes())))
            .with_hint(format!("its members are: {}", tar::names(members)))
    })
}

/// The first disk of the description, or the only member that looks like a disk.
fn first<'a>(members: &'a [Member], described: &[Disk]) -> Result<&'a Member> {
    if let Some(disk) = described.first() {
        return of_disk(members, disk);
    }
    let disks: Vec<_> = members.iter().filter(|member| has_extension(member, &EXTENSIONS)).collect();
    match disks[..] {
        [disk] => Ok(disk),
        [] => Err(Error::corrupt(FORMAT, "disk", 0, format!("members: {}", tar::names(members)), "a disk among them")),
        [first, ..] => Err(Error::invalid(format!(
            "the ova holds several disks and does not say which is first: {}",
            tar::names(disks.iter().copied())
        ))
        .with_hint(format!("name one: IMAGE.ova#{}", escape(first.name.as_bytes())))),
    }
}

/// The member that holds a disk of the description.
fn of_disk<'a>(members: &'a [Member], disk: &Disk) -> Result<&'a Member> {
    let href = || escape(disk.href.as_bytes());
    if let Some(compression) = disk.compression.as_deref().filter(|name| !matches!(*name, "" | "identity")) {
        let compression = escape(compression.as_bytes());
        return Err(Error::unsupported(FORMAT, format!("{compression} compression of disk '{}'", href())));
    }
    if disk.chunked {
        return Err(Error::unsupported(FORMAT, format!("disk '{}' in chunks", href())));
    }
    let find = |name: &str| members.iter().find(|member| member.name == name.strip_prefix("./").unwrap_or(name));
    let member = find(&disk.href).or_else(|| find(&ovf::percent_decoded(&disk.href)?));
    member.ok_or_else(|| {
        Error::corrupt(FORMAT, "File href", 0, format!("'{}'", href()), format!("one of: {}", tar::names(members)))
    })
}

fn has_extension(member: &Member, extensions: &[&str]) -> bool {
    let extension = member.name.rsplit_once('.').map_or("", |(_, extension)| extension);
    extensions.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Memory, read_vec};

    /// A tar of these files.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = ::tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn opened(tar: Vec<u8>, fragment: Option<&str>) -> Result<Vec<u8>> {
        let path = Path::new("m.ova");
        let context = OpenContext { path, gate: &DenyAll, depth: 0, follow: true, snapshot: fragment };
        let file: Arc<dyn BlockDevice> = Arc::new(Memory::new(tar));
        let image = open(&file, &context)?;
        assert_eq!(image.info.format, ImageFormat::Ova);
        read_vec(&image.device, 0, image.device.size() as usize)
    }

    const OVF: &str = r#"<File ovf:id="f1" ovf:href="one%20a.img"/><File ovf:id="f2" ovf:href="two.img"/>
        <File ovf:id="f3" ovf:href="three.gz" ovf:compression="gzip"/><File ovf:id="f4" ovf:href="lost"/>
        <Disk ovf:fileRef="f2" ovf:diskId="d2"/><Disk ovf:fileRef="f1" ovf:diskId="d1"/>
        <Disk ovf:fileRef="f3" ovf:diskId="d3"/><Disk ovf:fileRef="f4" ovf:diskId="d4"/>"#;

    #[test]
    fn the_description_says_which_disk() {
        let files: [(&str, &[u8]); 4] =
            [("m.ovf", OVF.as_bytes()), ("one a.img", b"1"), ("two.img", b"2"), ("three.gz", b"3")];
        let tar = archive(&files);
        assert_eq!(opened(tar.clone(), None).unwrap(), b"2");
        for (fragment, contents) in [("d1", b"1"), ("one a.img", b"1"), ("one%20a.img", b"1"), ("two.img", b"2")] {
            assert_eq!(opened(tar.clone(), Some(fragment)).unwrap(), contents, "{fragment}");
        }
        let error = opened(tar.clone(), Some("d3")).unwrap_err();
        assert_eq!(error.to_string(), "ova: gzip compression of disk 'three.gz' is not supported");
        assert_eq!(opened(tar.clone(), Some("d4")).unwrap_err().as_corrupt().unwrap().field, "File href");
        let error = opened(tar, Some("no")).unwrap_err();
        assert_eq!(error.hint(), Some("its members are: m.ovf, one a.img, two.img, three.gz"));
    }

    #[test]
    fn without_a_description_a_single_disk_is_taken() {
        assert_eq!(opened(archive(&[("readme", b"x"), ("a.RAW", b"1")]), None).unwrap(), b"1");
        let error = opened(archive(&[("a.img", b"1"), ("b.img", b"2")]), None).unwrap_err();
        assert_eq!((error.exit_code(), error.hint()), (2, Some("name one: IMAGE.ova#a.img")));
        assert_eq!(opened(archive(&[("readme", b"x")]), None).unwrap_err().as_corrupt().unwrap().field, "disk");
        let nested = archive(&[("a.img", &archive(&[("b.img", b"1")]))]);
        assert_eq!(
            opened(nested, None).unwrap_err().to_string(),
            "m.ova#a.img: ova: an ova inside an ova is not supported"
        );
    }

    #[test]
    fn broken_headers_name_their_field() {
        let good = archive(&[("a.img", b"1")]);
        let with_size = |size: &[u8; 12]| {
            let mut tar = good.clone();
            tar[124..136].copy_from_slice(size);
            let sum: u32 = tar[..148].iter().chain(&[b' '; 8]).chain(&tar[156..512]).map(|&byte| u32::from(byte)).sum();
            tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            tar
        };
        let mut wrong_sum = good.clone();
        wrong_sum[3] ^= 1;
        for (tar, field, offset) in [
            (wrong_sum, "chksum", 148),
            (with_size(b"77777777777\0"), "size", 124),
            (with_size(&[0xff; 12]), "size", 124),
            (with_size(b"abc\0\0\0\0\0\0\0\0\0"), "size", 124),
        ] {
            let error = opened(tar, None).unwrap_err();
            let corrupt = error.as_corrupt().unwrap();
            assert_eq!((corrupt.field, corrupt.offset), (field, offset), "{error}");
        }
        let many: Vec<u8> = good[..1024].iter().copied().cycle().take(1024 * 5000).collect();
        assert_eq!(opened(many, None).unwrap_err().exit_code(), 4);
    }
}

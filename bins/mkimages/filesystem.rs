//! From a tree to a filesystem in a file of its own.
//!
//! ext2, 3 and 4: mke2fs makes it empty, then one debugfs script writes everything. (`mke2fs -d` would copy a directory in
//! the order the host happens to list it, with the host's owners; a script gives the same bytes everywhere, and devices
//! without root.) FAT: mkfs.vfat, then mtools. Swap: mkswap.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Result;
use crate::recipe::{Filesystem, FsType};
use crate::tool::Tool;
use crate::tree::{Kind, Node, Tree, file_name, parent};

/// The features that mke2fs of Debian 12 gives to each type, so that neither another version nor the host's mke2fs.conf
/// changes an image.
const EXT2: &str = "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file";
const EXT3: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file";
const EXT4: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                    large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Makes the filesystem of `size` bytes as `image`; `work` is an empty directory for what is needed on the way.
pub(crate) fn make(fs: &Filesystem, tree: &Tree, image: &Path, size: u64, work: &Path, time: i64) -> Result<()> {
    let file = File::create(image)?;
    file.set_len(size)?;
    drop(file);
    std::fs::create_dir_all(work)?;
    match fs.kind {
        FsType::Ext2 => make_ext(fs, EXT2, tree, image, work, time),
        FsType::Ext3 => make_ext(fs, EXT3, tree, image, work, time),
        FsType::Ext4 => make_ext(fs, EXT4, tree, image, work, time),
        FsType::Vfat => make_vfat(fs, tree, image, work, time),
        FsType::Swap => {
            let swap = Tool::new("mkswap", time).args(["-U", &fs.uuid]).args(&fs.arguments);
            let swap = if fs.label.is_empty() { swap } else { swap.args(["-L", &fs.label]) };
            swap.arg(image).run(&[0]).map(drop)
        }
    }
}

fn make_ext(fs: &Filesystem, base: &str, tree: &Tree, image: &Path, work: &Path, time: i64) -> Result<()> {
    let features = std::iter::once(base).chain(fs.features.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
    // A directory's hash tree depends on the seed; the filesystem's own UUID will do for one.
    let extended = format!("lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,hash_seed={}", fs.uuid);
    let mut format = Tool::new("mke2fs", time).args(["-q", "-F", "-O", &features, "-E", &extended, "-U", &fs.uuid]);
    format = format.args(["-I", &fs.inode_size.to_string(), "-b", &fs.block_size.unwrap_or(4096).to_string()]);
    if let Some(inodes) = fs.inodes {
        format = format.args(["-N", &inodes.to_string()]);
    }
    if let Some(journal) = fs.journal {
        format = format.args(["-J", &format!("size={journal}")]);
    }
    if !fs.label.is_empty() {
        format = format.args(["-L", &fs.label]);
    }
    format.args(&fs.arguments).arg(image).run(&[0])?;

    std::fs::write(work.join("script"), script(fs, tree, work)?)?;
    let image = std::path::absolute(image)?;
    let debugfs = Tool::new("debugfs", time).args(["-w", "-f", "script"]).arg(&image).directory(work);
    let complaint = debugfs.run(&[0])?;
    // It goes on after a failed command and calls that success; all it says of itself is one line.
    if let Some(line) = complaint.lines().find(|line| !line.starts_with("debugfs ") && !line.is_empty()) {
        return Err(format!("debugfs: {line}").into());
    }
    if fs.index {
        Tool::new("e2fsck", time).args(["-f", "-y", "-D"]).arg(&image).run(&[0, 1])?;
    } else if features.split(',').any(|feature| matches!(feature, "ea_inode" | "quota" | "project")) {
        // debugfs counts neither an attribute's own inode in i_blocks nor anybody's quota.
        Tool::new("e2fsck", time).args(["-f", "-y"]).arg(&image).run(&[0, 1])?;
    }
    Tool::new("e2fsck", time).args(["-f", "-n"]).arg(&image).run(&[0]).map(drop)
}

/// The debugfs commands: first every path, then the other names, then what is known of each inode.
fn script(fs: &Filesystem, tree: &Tree, work: &Path) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    let mut files = 0;
    let mut host_file = |write: &dyn Fn(&mut File) -> std::io::Result<()>| -> Result<String> {
        files += 1;
        let name = format!("f{files}");
        write(&mut File::create(work.join(&name))?)?;
        Ok(name)
    };
    let is_made = |path: &[u8]| path == b"/" || path == b"/lost+found";
    for (path, node) in tree.nodes.iter().filter(|(path, _)| !is_made(path)) {
        let name = quoted(file_name(path));
        let command = match &node.kind {
            Kind::Dir { .. } => [b"mkdir ", &name[..]].concat(),
            Kind::File(data) => {
                let file = host_file(&|file| data.write(file))?;
                [b"write ", file.as_bytes(), b" ", &name].concat()
            }
            Kind::Symlink(target) => [b"symlink ", &name[..], b" ", &quoted(target)].concat(),
            Kind::Char(major, minor) => [b"mknod ", &name[..], format!(" c {major} {minor}").as_bytes()].concat(),
            Kind::Block(major, minor) => [b"mknod ", &name[..], format!(" b {major} {minor}").as_bytes()].concat(),
            Kind::Fifo => [b"mknod ", &name[..], b" p"].concat(),
            Kind::HardLink(_) => continue,
        };
        script.extend([b"cd ", &quoted(parent(path))[..], b"\n", &command, b"\n"].concat());
        if matches!(node.kind, Kind::Dir { casefold: true }) {
            let flags = format!(" flags {:#x}\n", 0x4000_0000u32 | directory_flags(fs));
            script.extend([b"sif ", &name[..], flags.as_bytes()].concat());
        }
    }
    script.extend(b"cd /\n");
    for (path, node) in &tree.nodes {
        if let Kind::HardLink(target) = &node.kind {
            script.extend([b"ln ", &quoted(target)[..], b" ", &quoted(path), b"\n"].concat());
        }
    }
    for (path, node) in tree.nodes.iter().filter(|(_, node)| !matches!(node.kind, Kind::HardLink(_))) {
        let path = quoted(path);
        for (field, value) in fields(node, fs.inode_size)? {
            script.extend([b"sif ", &path[..], b" ", field.as_bytes(), b" ", value.as_bytes(), b"\n"].concat());
        }
        for (name, value) in &node.xattrs {
            if value.len() as u64 > fs.block_size.unwrap_or(4096) {
                return Err(format!("{name}: debugfs writes no attribute that is longer than a block").into());
            }
            let file = host_file(&|file| file.write_all(value))?;
            script.extend([b"ea_set -f ", file.as_bytes(), b" ", &path, b" ", name.as_bytes(), b"\n"].concat());
        }
    }
    Ok(script)
}

/// The inode's fields that differ from what debugfs has given it.
fn fields(node: &Node, inode_size: u64) -> Result<Vec<(&'static str, String)>> {
    let kind = match node.kind {
        Kind::Dir { .. } => 0o040_000,
        Kind::File(_) | Kind::HardLink(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Char(..) => 0o020_000,
        Kind::Block(..) => 0o060_000,
        Kind::Fifo => 0o010_000,
    };
    let mut fields = vec![("mode", format!("0{:o}", kind | node.mode))];
    for (field, id) in [("uid", node.uid), ("gid", node.gid)] {
        if id != 0 {
            fields.push((field, id.to_string()));
        }
    }
    // The low 32 bits are signed; two more bits of the "extra" field add 2^32 each, the rest of it is nanoseconds.
    let (seconds, nanoseconds) = node.mtime;
    let low = (seconds & 0xffff_ffff) as u32;
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    let extra =
        (nanoseconds << 2) | u32::try_from(epoch).ok().filter(|epoch| *epoch < 4).ok_or("a time out of range")?;
    if extra != 0 && inode_size < 160 {
        return Err("an inode of 128 bytes keeps no such time".into());
    }
    fields.push(("mtime", format!("@{low}")));
    fields.push(("mtime_extra", extra.to_string()));
    if inode_size < 160 {
        fields.pop();
    }
    if let Kind::File(data) = &node.kind {
        // On a filesystem with inline data debugfs forgets the hole at the end.
        fields.push(("size", data.len.to_string()));
    }
    if node.links > 1 && !matches!(node.kind, Kind::Dir { .. }) {
        fields.push(("links_count", node.links.to_string()));
    }
    Ok(fields)
}

/// The flags that debugfs gives to a new directory.
fn directory_flags(fs: &Filesystem) -> u32 {
    let has = |feature: &str| fs.features.iter().any(|list| list.split(',').any(|name| name == feature));
    match fs.kind {
        _ if has("inline_data") => 0x1000_0000,
        FsType::Ext4 if !has("^extent") => 0x8_0000,
        _ => 0,
    }
}

/// A word for debugfs: in double quotes, a double quote doubled.
fn quoted(word: &[u8]) -> Vec<u8> {
    let inner = word.iter().flat_map(|&byte| if byte == b'"' { vec![b'"'; 2] } else { vec![byte] });
    std::iter::once(b'"').chain(inner).chain([b'"']).collect()
}

fn make_vfat(fs: &Filesystem, tree: &Tree, image: &Path, work: &Path, time: i64) -> Result<()> {
    let format = Tool::new("mkfs.vfat", time).args(["--invariant", "-i", &fs.uuid]).args(&fs.arguments);
    let format = if fs.label.is_empty() { format } else { format.args(["-n", &fs.label]) };
    format.arg(image).run(&[0])?;
    for (path, node) in tree.nodes.iter().filter(|(path, _)| *path != b"/") {
        let target = std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&[b"::", &path[..]].concat()));
        let Kind::File(data) = &node.kind else {
            Tool::new("mmd", time).arg("-i").arg(image).arg(&target).run(&[0])?;
            continue;
        };
        let host = work.join("file");
        let mut file = File::create(&host)?;
        data.write(&mut file)?;
        let modified = u64::try_from(node.mtime.0).map_err(|_| "FAT knows no time before 1980")?;
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(modified))?;
        Tool::new("mcopy", time).args(["-m", "-i"]).arg(image).arg(&host).arg(&target).run(&[0])?;
        if node.mode & 0o222 == 0 {
            Tool::new("mattrib", time).args(["+r", "-i"]).arg(image).arg(&target).run(&[0])?;
        }
    }
    Ok(())
}

//! The kernel as the oracle: it makes filesystems that need recovery, and recovers copies of them.
//!
//! These tests need root, loop devices and e2fsprogs. They read the journal with debugfs, so that nothing but this module
//! is tested.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::block::{HostFile, Memory};

#[path = "../../../../tests/support/mod.rs"]
mod support;

use support::{have, root, shell};

/// Where images are made: in memory if possible, because each fsync would wait for the disk elsewhere.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn ready() -> bool {
    root() && ["mke2fs", "debugfs", "dumpe2fs", "losetup", "mount"].into_iter().all(have)
}

/// An image that was copied while it was mounted.
struct Dirty {
    directory: tempfile::TempDir,
    image: PathBuf,
    block_size: u32,
    blocks_count: u64,
    inode_size: u32,
    /// The filesystem's blocks that hold the journal, in order.
    journal: Vec<u64>,
}

impl Dirty {
    /// Makes a filesystem, mounts it, runs `work` in it and copies the image before it is unmounted.
    fn new(mke2fs: &str, mount: &str, work: &str) -> Self {
        let directory = scratch();
        let script = format!(
            "truncate -s 32M live; mke2fs -q -F -t ext4 {mke2fs} live; mkdir m; mount -o loop,{mount} live m; \
             trap 'cd /; umount {at}/m' EXIT; cd m; {work}\ncp --sparse=always ../live ../dirty",
            at = directory.path().display()
        );
        shell(directory.path(), &script);
        Self::read(directory)
    }

    /// Takes the image `dirty` in `directory`.
    fn read(directory: tempfile::TempDir) -> Self {
        let image = directory.path().join("dirty");
        let super_block = read_vec(&HostFile::open(&image).unwrap(), 1024, 1024).unwrap();
        let le32 = |at: usize| u32::from_le_bytes(super_block[at..at + 4].try_into().unwrap());
        let list = shell(directory.path(), "debugfs -R 'blocks <8>' dirty 2>/dev/null").stdout;
        let journal = String::from_utf8(list).unwrap().split_whitespace().map(|block| block.parse().unwrap()).collect();
        let mut dirty = Self {
            image,
            block_size: 1024 << le32(0x18),
            blocks_count: u64::from(le32(4)),
            inode_size: u32::from(super_block[0x58]) | u32::from(super_block[0x59]) << 8,
            journal,
            directory,
        };
        // `blocks` tells the tree's own blocks too; they come before what they map.
        let tree = dirty.journal.len() - dirty.dump().len() / dirty.block_size as usize;
        dirty.journal.drain(..tree);
        dirty
    }

    /// The journal's content, as debugfs reads it.
    fn dump(&self) -> Vec<u8> {
        shell(self.directory.path(), "rm -f journal; debugfs -R 'dump <8> journal' dirty 2>/dev/null");
        std::fs::read(self.directory.path().join("journal")).unwrap()
    }

    fn replay(&self, journal: &Memory) -> Result<Replay> {
        let &Self { block_size, blocks_count, inode_size, .. } = self;
        replay(&JournalInput { journal, block_size, blocks_count, inode_size })
    }

    /// The filesystem as this module recovers it.
    fn recovered(&self) -> Result<(Replayed, Replay)> {
        let journal = Memory::new(self.dump());
        let replay = self.replay(&journal)?;
        let base = Arc::new(HostFile::open(&self.image).unwrap());
        let device = Replayed::new(base, Arc::new(journal), self.block_size, replay.blocks.clone());
        Ok((device, replay))
    }

    /// The image after the kernel mounted and unmounted a copy; `None` when it refuses.
    fn recovered_by_kernel(&self) -> Option<Vec<u8>> {
        // A loop device of its own: one made by `mount -o ro` could not be written to.
        let script = "cp --sparse=always dirty kernel; mkdir -p k; loop=$(losetup -f --show kernel); \
                      if mount -o ro $loop k 2>/dev/null; then umount k; echo mounted; fi; losetup -d $loop";
        let output = shell(self.directory.path(), script);
        (output.stdout == b"mounted\n").then(|| std::fs::read(self.directory.path().join("kernel")).unwrap())
    }

    /// The same for fast commits, which the kernel only replays when it mounts for writing.
    fn fast_commits_recovered_by_kernel(&self) -> Option<Vec<u8>> {
        let script = "cp --sparse=always dirty kernel; mkdir -p k; \
                      if mount -o loop kernel k 2>/dev/null; then umount k; echo mounted; fi";
        let output = shell(self.directory.path(), script);
        (output.stdout == b"mounted\n").then(|| std::fs::read(self.directory.path().join("kernel")).unwrap())
    }

    /// What debugfs prints for `commands` on `image`, each command's output by itself.
    fn debugfs(&self, image: &str, commands: &[String]) -> Vec<String> {
        std::fs::write(self.directory.path().join("commands"), commands.join("\n")).unwrap();
        let output = shell(self.directory.path(), &format!("debugfs -f commands {image} 2>&1")).stdout;
        let text = String::from_utf8(output).unwrap();
        let outputs: Vec<String> = text
            .split("debugfs: ")
            .skip(1)
            .map(|part| part.split_once('\n').map_or("", |(_, output)| output).trim().to_owned())
            .collect();
        assert_eq!(outputs.len(), commands.len(), "{text}");
        outputs
    }

    /// The entries of a directory: inode by name.
    fn list(&self, image: &str, directory: u32) -> std::collections::BTreeMap<Vec<u8>, u32> {
        let text = self.debugfs(image, &[format!("ls -p <{directory}>")]).remove(0);
        let fields = text.lines().map(|line| line.split('/').collect::<Vec<_>>());
        fields
            .filter(|fields| fields.len() == 8 && fields[1] != "0" && fields[5] != "." && fields[5] != "..")
            .map(|fields| (fields[5].into(), fields[1].parse().unwrap()))
            .collect()
    }

    /// Where inodes lie in the image.
    fn locate(&self, inodes: &[u32]) -> Vec<usize> {
        let commands: Vec<String> = inodes.iter().map(|inode| format!("imap <{inode}>")).collect();
        let place = |text: String| {
            let (block, offset) = text.rsplit_once("located at block ").unwrap().1.split_once(", offset 0x").unwrap();
            block.parse::<usize>().unwrap() * self.block_size as usize + usize::from_str_radix(offset, 16).unwrap()
        };
        self.debugfs("dirty", &commands).into_iter().map(place).collect()
    }

    /// The first blocks of a file.
    fn map(&self, image: &str, inode: u32) -> Vec<u64> {
        let commands: Vec<String> = (0..120).map(|block| format!("bmap <{inode}> {block}")).collect();
        self.debugfs(image, &commands).iter().map(|text| text.parse().unwrap_or_default()).collect()
    }

    /// The image after e2fsck replayed the journal of a copy and did nothing else.
    fn recovered_by_e2fsck(&self) -> Vec<u8> {
        shell(self.directory.path(), "cp --sparse=always dirty fsck; e2fsck -y -E journal_only fsck || [ $? -lt 4 ]");
        std::fs::read(self.directory.path().join("fsck")).unwrap()
    }

    /// The blocks that differ, but for the superblock and the journal, whose fields say that recovery is over.
    fn differences(&self, ours: &Replayed, theirs: &[u8]) -> Vec<u64> {
        let size = self.block_size as usize;
        let journal: BTreeSet<u64> = self.journal.iter().copied().collect();
        let super_block = 1024 / u64::from(self.block_size);
        (0..self.blocks_count)
            .filter(|block| *block != super_block && !journal.contains(block))
            .filter(|block| {
                let at = *block as usize * size;
                read_vec(ours, at as u64, size).unwrap() != theirs[at..at + size]
            })
            .collect()
    }

    /// Holds this module's recovery against the kernel's and e2fsck's; returns it.
    fn assert_same(&self) -> Replay {
        let (ours, replay) = self.recovered().unwrap();
        let kernel = self.recovered_by_kernel().expect("the kernel mounts it");
        assert_eq!(self.differences(&ours, &kernel), [0u64; 0], "kernel, {:?}", replay.notes);
        assert_eq!(self.differences(&ours, &self.recovered_by_e2fsck()), [0u64; 0], "e2fsck, {:?}", replay.notes);
        replay
    }

    /// Writes into the journal, where its block `block` lies in the image.
    fn write(&self, block: usize, at: usize, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&self.image).unwrap();
        let offset = self.journal[block] * u64::from(self.block_size) + at as u64;
        file.write_all_at(bytes, offset).unwrap();
    }
}

/// Files, directories, links and attributes, each made durable; then some of them changed again.
const WORK: &str = r#"
    for i in $(seq 30); do mkdir d$i; head -c $((i * 700)) /dev/urandom > d$i/file; sync d$i/file; done
    for i in $(seq 1 3 30); do rm -r d$i; echo more >> d$((i + 1))/file; sync d$((i + 1))/file; done
    for i in $(seq 200); do : > name-$i; done; sync name-1
    rm name-1?; mv name-20 name-x; ln name-21 name-y; ln -s name-22 name-z; sync name-2
"#;

/// Directories whose blocks are freed and used for data at once, so that the log revokes them.
const REVOKES: &str = r#"
    for round in 1 2 3 4; do
        for i in $(seq 20); do mkdir r$i; for j in $(seq 40); do : > r$i/a-long-name-$j; done; done; sync -f .
        rm -r r*; for i in $(seq 40); do head -c 4096 /dev/urandom > data-$round-$i; done; sync data-$round-1
    done
"#;

#[test]
fn every_kind_of_log_is_replayed_as_the_kernel_does() {
    if !ready() {
        return;
    }
    let cases = [
        ("-b 4096", "rw", WORK, "csum_v3, 64bit"),
        ("-b 1024 -O ^64bit", "rw", WORK, "csum_v3"),
        ("-b 4096 -O ^metadata_csum,^64bit", "rw", WORK, "nothing"),
        ("-b 1024 -O ^metadata_csum", "journal_checksum", WORK, "checksum"),
        ("-b 4096 -O ^metadata_csum", "journal_checksum,journal_async_commit,data=writeback", WORK, "checksum, async"),
        ("-b 1024", "journal_async_commit,data=writeback", WORK, "csum_v3, async"),
        ("-b 1024", "rw", REVOKES, "csum_v3, 64bit, revokes"),
        ("-b 1024 -O ^64bit,^metadata_csum", "rw", REVOKES, "revokes"),
        ("-b 2048 -O bigalloc", "rw", WORK, "bigalloc"),
    ];
    for (mke2fs, mount, work, name) in cases {
        let dirty = Dirty::new(mke2fs, mount, work);
        let replay = dirty.assert_same();
        println!("{name}: {} blocks, {:?}", replay.blocks.len(), replay.notes);
        assert!(!replay.blocks.is_empty(), "{name}");
    }
}

/// More transactions than the log has room for at once.
#[test]
fn a_log_that_wraps_around_is_replayed() {
    if !ready() {
        return;
    }
    let work = "for i in $(seq 600); do echo $i > f$i; mkdir d$i; sync f$i; done";
    for mke2fs in ["-b 1024 -J size=1", "-b 1024 -J size=1 -O ^metadata_csum"] {
        let dirty = Dirty::new(mke2fs, "rw", work);
        let replay = dirty.assert_same();
        let journal = Memory::new(dirty.dump());
        let superblock = Superblock::parse(&journal_head(&journal), 1024, 1024).unwrap();
        let start = u64::from(superblock.start) * 1024;
        assert!(replay.blocks.values().any(|block| block.offset < start), "the log wraps: {:?}", replay.notes);
    }
}

fn journal_head(journal: &Memory) -> Vec<u8> {
    read_vec(journal, 0, superblock::SIZE).unwrap()
}

/// Data that begins with the journal's magic, which the log must hide.
#[test]
fn escaped_data_is_restored() {
    if !ready() {
        return;
    }
    let work = r"for i in $(seq 20); do printf '\300\073\071\230 and more' > f$i; sync f$i; done";
    for mke2fs in ["-b 1024", "-b 4096 -O ^metadata_csum"] {
        let replay = Dirty::new(mke2fs, "data=journal", work).assert_same();
        assert!(replay.blocks.values().filter(|block| block.escaped).count() >= 20, "{:?}", replay.notes);
    }
}

/// Logs that debugfs writes, with checksums that today's kernels no longer write.
#[test]
fn logs_of_e2fsprogs_are_replayed() {
    if !ready() {
        return;
    }
    for features in ["64bit", "^64bit"] {
        // debugfs uses version 1 where the filesystem has no checksums, whatever one asks for.
        for (checksum, metadata) in [("", "^"), ("-c", "^"), ("-c -v 2", ""), ("-c -v 3", "")] {
            let directory = scratch();
            // debugfs counts revoke blocks into version 1 checksums, the kernel does not.
            let revokes = ["'jw -r 9001,9003'", "'jw -r 9000,9700'"];
            let [first, second] = if checksum == "-c" { [""; 2] } else { revokes };
            let script = format!(
                "truncate -s 32M dirty; mke2fs -q -F -t ext4 -b 1024 -O {features},{metadata}metadata_csum dirty
                 head -c 5120 /dev/urandom > a; printf '\\300\\073\\071\\230' > b; head -c 6000 /dev/urandom >> b
                 printf '%s\\n' 'jo {checksum}' 'jw -b 9000,9001,9002,9003 a' {first} 'jw -b 9010,9003,9011 b' \
                    {second} 'jw -b 9000 b' jc > commands
                 debugfs -w -f commands dirty"
            );
            shell(directory.path(), &script);
            let replay = Dirty::read(directory).assert_same();
            let blocks: Vec<_> = replay.blocks.iter().map(|(&block, logged)| (block, logged.escaped)).collect();
            let expected = match first {
                "" => vec![(9000, true), (9001, false), (9002, false), (9003, false), (9010, true), (9011, false)],
                _ => vec![(9000, true), (9002, false), (9003, false), (9010, true), (9011, false)],
            };
            assert_eq!(blocks, expected, "{features} {checksum} {:?}", replay.notes);
        }
    }
}

/// Damages logs at random places and asks the kernel whether it still mounts the filesystem, and how it looks then.
#[test]
fn damage_is_judged_as_the_kernel_judges_it() {
    if !ready() {
        return;
    }
    let rounds = std::env::var("DAMAGE_ROUNDS").map_or(8, |rounds| rounds.parse().unwrap());
    let work = "for i in $(seq 12); do mkdir d$i; echo $i > d$i/f; sync d$i/f; [ $i = 6 ] && sleep 1.1; done";
    let work = format!("{work}; for i in $(seq 5); do rm -r d$i; echo $i > f$i; sync f$i; done; sync f1");
    for (mke2fs, mount) in [
        ("-b 1024 -J size=1", "rw"),
        ("-b 1024 -J size=1 -O ^metadata_csum", "rw"),
        ("-b 1024 -J size=1 -O ^metadata_csum", "journal_checksum"),
        ("-b 1024 -J size=1 -O ^metadata_csum", "journal_checksum,journal_async_commit,data=writeback"),
        ("-b 1024 -J size=1", "journal_async_commit,data=writeback"),
    ] {
        let dirty = Dirty::new(mke2fs, mount, &work);
        let whole = dirty.dump();
        let log_len = whole.chunks(1024).skip(1).position(|block| block.iter().all(|&byte| byte == 0)).unwrap() + 2;
        let mut seed = 1u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut verdicts = [0; 2];
        for round in 0..rounds {
            // Mostly blocks that begin with the magic, mostly their fields.
            let block = loop {
                let block = random(log_len);
                if whole[block * 1024..].starts_with(&[0xc0, 0x3b, 0x39, 0x98]) || random(10) == 0 {
                    break block;
                }
            };
            let at = match random(8) {
                0..4 => random(64),
                4 => 1020 + random(4),
                5 => 0x30 + random(8),
                _ => random(1024),
            };
            let mut bytes = whole[block * 1024..][..1024].to_vec();
            match random(6) {
                0 => bytes.fill(0),
                1 => bytes[at] = 0,
                2 => bytes[at..(at + 4).min(1024)].fill(0xff),
                _ => bytes[at] ^= 1 << random(8),
            }
            dirty.write(block, 0, &bytes);
            let (ours, kernel) = (dirty.recovered(), dirty.recovered_by_kernel());
            let name = format!("{mke2fs} {mount}: round {round}, block {block}, byte {at:#x}");
            match (&ours, &kernel) {
                (Ok((device, replay)), Some(image)) => {
                    let differences = dirty.differences(device, image);
                    assert_eq!(differences, [0u64; 0], "{name} {:?}", replay.notes);
                    verdicts[0] += 1;
                }
                (Err(_), None) => verdicts[1] += 1,
                // Without checksums, damage goes to the filesystem, and the kernel stumbles over that.
                (Ok(_), None) if mke2fs.ends_with("^metadata_csum") && mount == "rw" => verdicts[1] += 1,
                (Ok((_, replay)), None) => panic!("{name}: the kernel refuses, we read: {:?}", replay.notes),
                (Err(error), Some(_)) => panic!("{name}: the kernel mounts, we refuse: {error}"),
            }
            dirty.write(block, 0, &whole[block * 1024..][..1024]);
        }
        println!("{mke2fs} {mount}: {verdicts:?} read and refused");
    }
}

/// Everything that fast commits record, in many of them.
const FAST_COMMITS: &str = r#"
    head -c 9000 /dev/urandom > big; head -c 60000 /dev/urandom > bigger; : > victim; mkdir old; echo 1 > old/file
    echo 1 > linked; ln linked link; sync -f .; echo warm > warm; sync warm
    for i in $(seq 12); do echo $i > new$i; sync new$i; done
    echo more >> big; sync big; head -c 30000 /dev/urandom >> big; sync big
    echo atomic > tmp; sync tmp; mv tmp victim; sync victim
    rm new3 new4; mv new5 renamed; ln new6 hard; sync hard
    truncate -s 3000 bigger; sync bigger
    fallocate -o 20000 -l 30000 new7; sync new7
    fallocate -p -o 4096 -l 8192 big || true; sync big
    rm link; sync linked
    mkdir made; sync warm; echo in > made/file; sync made/file; echo 2 > old/file2; sync old/file2
    rm bigger; echo small > reused; sync reused; echo x > new3; sync new3
    mv old/file old/moved; mv old/file2 made/there; sync made/there
    for i in $(seq 60); do echo $i > many$i; done; sync many60; rm many1*; mv many20 many30; sync many30
"#;

#[test]
fn fast_commits_are_replayed_as_the_kernel_does() {
    if !ready() {
        return;
    }
    for mke2fs in [
        "-b 1024 -O fast_commit",
        "-b 4096 -J fast_commit_size=1024 -O fast_commit,^64bit",
        "-b 1024 -O fast_commit,inline_data",
    ] {
        let dirty = Dirty::new(mke2fs, "rw", FAST_COMMITS);
        let (device, replay) = dirty.recovered().unwrap();
        let base = read_vec(&device, 0, device.size() as usize).unwrap();
        std::fs::write(dirty.directory.path().join("base"), &base).unwrap();
        let kernel = dirty.fast_commits_recovered_by_kernel().expect("the kernel mounts it");
        println!("{mke2fs}: {:?}", replay.notes);

        let changes = &replay.fast_commit;
        for &parent in changes.names.keys() {
            let made = changes.inode(parent, &[0; 256]).is_some_and(|inode| inode.made_in.is_some());
            let before = if made { Default::default() } else { dirty.list("base", parent) };
            let mut names: BTreeSet<Vec<u8>> = before.keys().cloned().collect();
            names.extend(changes.names(parent).map(<[u8]>::to_vec));
            let look = |name: &Vec<u8>| changes.lookup(parent, name, before.get(name).copied());
            let ours = names.iter().filter_map(|name| Some((name.clone(), look(name)?))).collect();
            assert_eq!(dirty.list("kernel", parent), ours, "{mke2fs}: directory {parent}");
        }

        let inodes: Vec<u32> = changes.inodes.keys().copied().collect();
        assert!(inodes.len() > if mke2fs.contains("inline") { 0 } else { 40 });
        for (&inode, at) in inodes.iter().zip(dirty.locate(&inodes)) {
            let size = dirty.inode_size as usize;
            let (on_disk, theirs) = (&base[at..at + size], &kernel[at..at + size]);
            let ours = changes.inode(inode, on_disk).unwrap();
            let name = format!("{mke2fs}: inode {inode}, {:?}", changes.inodes[&inode]);
            assert_eq!(ours.bytes[0x1a..0x1c], theirs[0x1a..0x1c], "links of {name}");
            if ours.bytes[0x1a..0x1c] == [0, 0] {
                continue;
            }
            let inline = ours.bytes[0x23] & 0x10 != 0;
            let map = 0x28..0x64;
            // i_blocks, i_block with extents, i_blocks_high, i_checksum.
            let masked = |at: usize| {
                matches!(at, 0x1c..0x20 | 0x74..0x76 | 0x7c..0x7e | 0x82..0x84)
                    || (map.contains(&at) && !inline)
                    // i_ctime, i_mtime, i_version: the kernel puts names into the directory now.
                    || (ours.made_in.is_some() && matches!(at, 0x0c..0x14 | 0x24..0x28 | 0x84..0x8c))
            };
            let different: Vec<usize> = (0..size).filter(|&at| ours.bytes[at] != theirs[at] && !masked(at)).collect();
            assert_eq!(different, [0usize; 0], "{name}");
            if inline || ours.made_in.is_some() {
                continue;
            }
            let mut expected = dirty.map("base", inode);
            if ours.bytes[map.clone()] != on_disk[map] || on_disk[0x1a..0x1c] == [0, 0] {
                expected.fill(0);
            }
            for range in &ours.ranges {
                for block in u64::from(range.logical())..range.end().min(120) {
                    expected[block as usize] = match *range {
                        RangeChange::Add { logical, physical, unwritten: false, .. } => {
                            physical + block - u64::from(logical)
                        }
                        // debugfs shows blocks that are not written yet as holes.
                        RangeChange::Add { .. } | RangeChange::Delete { .. } => 0,
                    };
                }
            }
            assert_eq!(dirty.map("kernel", inode), expected, "{name}");
        }
    }
}

//! Conversions that are remembered: the output is the one that converting makes, complete under its name or not at all.

use std::os::unix::fs::MetadataExt;

use super::memo::{Yard, harm, warnings};
use super::support::{have, shell};

impl Yard {
    /// Converts twice with the cache, the image under another name the second time, and once without: all are the same. The
    /// arguments go before the names.
    #[track_caller]
    fn converts(&self, arguments: &str, image: &str, extension: &str) {
        let line = |image: &str, out: &str| format!("convert -q --json {arguments} {image} {out}.{extension}");
        self.shell(&format!("rm -rf x y z; mkdir x y z; cp {image} copy-of-it"));
        let plain = self.plain(&line(image, "x/out")).text();
        let before = self.counts("convert");
        let first = self.run(&line(image, "y/out")).text();
        let second = self.run(&line("copy-of-it", "z/out")).text();
        let after = self.counts("convert");
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1), "{arguments}");
        assert_eq!((&first, &second), (&plain, &plain), "{arguments}");
        self.shell("diff -r x y; diff -r x z");
        let mode = |name: &str| std::fs::metadata(self.path(&format!("{name}/out.{extension}"))).unwrap().mode();
        assert_eq!(mode("z"), mode("x"), "{arguments}");
    }
}

#[test]
fn a_conversion_that_is_remembered_is_the_one_that_is_made() {
    let yard = Yard::demo();
    yard.plain("convert -q a.qcow2 a.raw").text();
    yard.converts("-O raw", "a.qcow2", "raw");
    yard.converts("-O qcow2", "a.raw", "qcow2");
    yard.converts("-c -O qcow2", "a.raw", "qcow2");
    yard.converts("--compression zstd -O qcow2", "a.raw", "qcow2");
    yard.converts("-O qcow2 -o cluster_size=16k", "a.raw", "qcow2");
    yard.converts("--skip-free -O qcow2", "a.raw", "qcow2");
    yard.converts("-S 0 -O qcow2", "a.raw", "qcow2");
    yard.converts("-O vmdk", "a.raw", "vmdk");
    yard.converts("-O vdi", "a.raw", "vdi");
    yard.converts("-O vhdx", "a.raw", "vhdx");
    // Without -O the name decides.
    let known = yard.counts("convert");
    yard.run("convert -q a.raw named.vdi").text();
    yard.run("convert -q a.raw named.qcow2").text();
    assert_eq!(yard.counts("convert"), (known.0 + 2, known.1));
    // A VMDK's descriptor has its name.
    yard.plain("convert -q a.raw name.vmdk").text();
    yard.shell("mv name.vmdk plain.vmdk");
    yard.run("convert -q a.raw name.vmdk").text();
    yard.shell("cmp name.vmdk plain.vmdk");
}

#[test]
fn the_output_replaces_what_is_there_and_is_absent_after_an_error() {
    let yard = Yard::demo();
    let convert = |out: &str| format!("convert -q -O raw a.qcow2 {out}");
    yard.run(&convert("first.raw")).text();
    yard.shell(
        "mkdir directory; echo old > old.raw; ln old.raw second-name; echo old > closed.raw; chmod 0400 closed.raw",
    );
    for out in ["old.raw", "closed.raw"] {
        let before = yard.counts("convert").0;
        yard.run(&convert(out)).text();
        assert_eq!(yard.counts("convert").0, before + 1);
        yard.shell(&format!("cmp first.raw {out}; test $(stat -c %a {out}) = $(stat -c %a first.raw)"));
    }
    assert_eq!(std::fs::read(yard.path("second-name")).unwrap(), b"old\n");
    // What goes wrong is said as without a cache, and nothing is left.
    for out in ["none/out.raw", "old.raw/out.raw", "directory"] {
        let (ran, plain) = (yard.run(&convert(out)), yard.plain(&convert(out)));
        let without_number = |text: &str| text.chars().filter(|one| !one.is_ascii_digit()).collect::<String>();
        assert_eq!((ran.code, without_number(&ran.err)), (plain.code, without_number(&plain.err)), "{out}");
        assert_ne!(ran.code, 0, "{out}");
    }
    assert_eq!(shell(yard.dir(), "find . -name '*.part'; ls directory").stdout, b"");
    // Over its own input, as without a cache.
    yard.shell("mkdir twice; cp a.qcow2 twice/1.qcow2; cp a.qcow2 twice/2.qcow2");
    yard.run("convert -q -O raw twice/1.qcow2 twice/1.qcow2").text();
    yard.plain("convert -q -O raw twice/2.qcow2 twice/2.qcow2").text();
    yard.shell("cmp twice/1.qcow2 twice/2.qcow2");
}

#[test]
fn a_damaged_file_is_made_anew() {
    for (directory, how) in [("objects", "gone"), ("objects", "short"), ("trees", "flipped"), ("actions", "flipped")] {
        let yard = Yard::demo();
        let line = "convert -q --json -O raw a.qcow2 out.raw";
        let made = yard.run(line).text();
        yard.shell("mv out.raw right.raw");
        harm(&yard.only(directory), how);
        let ran = yard.run(line);
        assert_eq!((ran.code, &ran.out[..]), (0, made.as_bytes()), "{directory} {how}");
        assert!(warnings(&ran.err) >= 1, "{directory} {how}: {:?}", ran.err);
        yard.shell("cmp out.raw right.raw; rm out.raw");
        let hits = yard.counts("convert").0;
        assert_eq!(yard.run(line).text(), made, "{directory} {how}");
        assert_eq!(yard.counts("convert").0, hits + 1, "{directory} {how}");
        yard.shell("cmp out.raw right.raw");
    }
}

#[test]
fn what_is_more_than_a_new_file_is_not_kept() {
    let yard = Yard::demo();
    yard.plain("convert -q -O raw a.qcow2 base.raw").text();
    yard.shell("cp base.raw there.raw");
    let lines = [
        "convert -q -n -O raw a.qcow2 there.raw",
        "convert -q -O qcow2 -B base.raw -F raw a.qcow2 over.qcow2",
        "convert -q -O vmdk -o subformat=twoGbMaxExtentFlat a.qcow2 two.vmdk",
        "convert -q -O vmdk -o subformat=monolithicFlat a.qcow2 flat.vmdk",
        "convert -q -O raw --verify a.qcow2 verified.raw",
        "convert -q -O raw --no-clone a.qcow2 copied.raw",
        "convert -q -O raw --isolate a.qcow2 isolated.raw",
    ];
    for line in lines.iter().chain(&lines) {
        yard.run(line).text();
        assert_eq!(yard.counts("convert").0, 0, "{line}");
    }
    if yard.path("cache/actions").exists() {
        assert_eq!(yard.store().actions().unwrap().len(), 0);
    }
    for name in ["verified.raw", "copied.raw", "isolated.raw", "there.raw"] {
        yard.shell(&format!("cmp base.raw {name}"));
    }
    if have("qemu-img") {
        yard.shell("for image in two.vmdk flat.vmdk over.qcow2; do qemu-img compare -q $image base.raw; done");
    }
}

#[test]
fn a_changed_image_or_other_arguments_are_converted() {
    let yard = Yard::demo();
    yard.plain("convert -q -O raw a.qcow2 disk.raw").text();
    let line = "convert -q --json -O qcow2 disk.raw out.qcow2";
    yard.miss(line);
    yard.hit(line);
    yard.shell(
        "touch -r disk.raw ref; printf x | dd of=disk.raw bs=1 seek=99 conv=notrunc 2>/dev/null; touch -r ref disk.raw",
    );
    yard.miss(line);
    yard.shell("cp out.qcow2 plain.qcow2");
    yard.run(line).text();
    yard.shell("cmp out.qcow2 plain.qcow2");
    for more in ["-c", "-S 0", "-o cluster_size=32k", "--skip-free", "-f raw", "--preallocate metadata"] {
        yard.miss(&format!("{line} {more}"));
        yard.hit(&format!("{line} {more}"));
    }
}

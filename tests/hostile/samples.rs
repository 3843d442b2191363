//! QEMU's own sample images, many from other programs or out of fuzzers: `sample_images` somewhere below the directory that
//! `GUESTCTL_CORPUS` names. Each is the same bytes as for qemu-img, or a refusal with an exit code.

use std::path::Path;

use crate::run;
use crate::support::{have, shell, skipped};

#[test]
fn samples_of_qemu_are_the_same_or_refused() {
    let Some(directory) = std::env::var_os("GUESTCTL_CORPUS") else {
        skipped(format_args!("GUESTCTL_CORPUS names no directory"));
        return;
    };
    let mut packed = Vec::new();
    crate::corpus::find(Path::new(&directory), &mut packed);
    packed.retain(|path| {
        path.parent().is_some_and(|parent| parent.ends_with("sample_images")) && unpacker(path).is_some()
    });
    packed.sort();
    if packed.is_empty() {
        skipped(format_args!("no sample_images of QEMU below GUESTCTL_CORPUS"));
        return;
    }
    if !["qemu-img", "bzip2", "xz"].into_iter().all(have) {
        return;
    }
    let failures: Vec<String> = packed.iter().flat_map(|file| hold(file)).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

fn unpacker(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "bz2" => Some("bzip2"),
        "xz" => Some("xz"),
        _ => None,
    }
}

fn hold(packed: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let name = packed.file_stem().unwrap().to_str().unwrap();
    let image = dir.path().join(name);
    // dd makes holes of zeroes.
    let script = format!(
        "{} -dc '{}' | dd of='{name}' bs=4k iflag=fullblock conv=sparse 2>/dev/null; mkdir out
         # QEMU empties logs only in images that it may change.
         cp --sparse=always '{name}' 'copy-{name}'; qemu-img check -q -r all 'copy-{name}' >/dev/null 2>&1 || :
         qemu-img convert -O raw 'copy-{name}' theirs 2>/dev/null || rm -f theirs; rm 'copy-{name}'",
        unpacker(packed).unwrap(),
        packed.display()
    );
    shell(dir.path(), &script);
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("out/out"));
    let verdict = run::judge_into(&image, &["convert -q -O raw IMAGE OUT"], &dir.path().join("out"));
    let mut failures = verdict.failures;
    let (mut cpu_ms, mut memory_kib) = (verdict.cpu_ms, verdict.memory_kib);
    let result = if verdict.refused {
        verdict.message
    } else if !theirs.exists() {
        "read by guestctl alone".to_owned()
    } else {
        // Both ways: by the bytes of the outputs, and by our own comparison with the sample.
        let mut qemu = std::process::Command::new("qemu-img");
        let same = qemu.args(["compare", "-f", "raw", "-F", "raw"]).arg(&ours).arg(&theirs).output().unwrap();
        if !same.status.success() {
            failures.push(format!("other bytes than qemu-img: {}", String::from_utf8_lossy(&same.stdout)));
        }
        let compare = format!("compare -F raw IMAGE {}", theirs.display());
        let compared = run::judge(&image, &[&compare]);
        if compared.refused {
            failures.push(format!("compare: {}", compared.message));
        }
        failures.extend(compared.failures);
        (cpu_ms, memory_kib) = (cpu_ms.max(compared.cpu_ms), memory_kib.max(compared.memory_kib));
        "the same as qemu-img".to_owned()
    };
    println!("{name:<28} {cpu_ms:>5} ms {:>6.1} MiB  {result}", memory_kib as f64 / 1024.0);
    failures.into_iter().map(|text| format!("{name}: {text}")).collect()
}

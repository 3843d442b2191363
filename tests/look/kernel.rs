//! `guestctl get-kernel`.

use super::program::guestctl;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");

#[test]
fn the_newest_kernel_comes_out_whole() {
    let out = tempfile::tempdir().unwrap();
    let to = out.path().to_str().unwrap();
    let plan = guestctl(["get-kernel", "--json", DEMO, "-o", to]).json();
    assert_eq!(out.path().read_dir().unwrap().count(), 0, "only printed");
    assert_eq!((&plan["root"], &plan["version"]), (&"/dev/sda2".into(), &"6.1.0-25-amd64".into()));
    assert_eq!((&plan["kind"], &plan["default"]), (&"image".into(), &true.into()));
    let line = "root=UUID=d0d0d0d0-0002-4000-8000-000000000002 ro quiet console=ttyS0";
    assert_eq!(plan["command_line"], line);
    let roles: Vec<_> = plan["files"].as_array().unwrap().iter().map(|file| file["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["kernel", "initrd", "cmdline"]);

    assert_eq!(
        guestctl(["get-kernel", DEMO, "-o", to]).text(),
        format!(
            "/boot/vmlinuz-6.1.0-25-amd64 -> {to}/vmlinuz-6.1.0-25-amd64\n\
             /boot/initrd.img-6.1.0-25-amd64 -> {to}/initrd.img-6.1.0-25-amd64\n\
             command line -> {to}/cmdline-6.1.0-25-amd64\n"
        )
    );
    for file in plan["files"].as_array().unwrap() {
        let bytes = std::fs::read(file["host_path"].as_str().unwrap()).unwrap();
        assert_eq!(file["size_bytes"].as_u64(), Some(bytes.len() as u64));
        match file["guest_path"].as_str() {
            Some(path) => assert!(bytes == guestctl(["cat", DEMO, path]).bytes(), "{path}"),
            None => assert_eq!(String::from_utf8(bytes).unwrap(), format!("{line}\n")),
        }
    }
    let named = tempfile::tempdir().unwrap();
    guestctl(["get-kernel", "--unversioned-names", "--prefix", "demo", DEMO, "-o", named.path().to_str().unwrap()])
        .text();
    let mut names: Vec<_> = named.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["demo-cmdline", "demo-initrd.img", "demo-vmlinuz"]);
}

#[test]
fn nothing_is_left_of_what_fails() {
    let out = tempfile::tempdir().unwrap();
    let to = out.path().to_str().unwrap();
    std::fs::create_dir(out.path().join("cmdline-6.1.0-25-amd64")).unwrap();
    let ran = guestctl(["get-kernel", DEMO, "-o", to]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert_eq!(out.path().read_dir().unwrap().count(), 1, "neither kernel nor initial RAM disk");
    assert_eq!(guestctl(["get-kernel", DEMO, "-o", to, "--prefix", "a/b"]).code, 2);
    assert_eq!(guestctl(["get-kernel", DEMO, "-o", to, "--root", "/dev/sda1"]).code, 2);
    assert_eq!(guestctl(["get-kernel", DEMO, "-o", "/nowhere/at/all"]).code, 1);
}

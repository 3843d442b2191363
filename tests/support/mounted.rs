//! The kernel's own mount of an image.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{have, root};

/// A mount that ends with the value.
pub struct Mounted {
    directory: tempfile::TempDir,
}

/// Whether images can be mounted here. Root without loop devices is a failure in CI.
pub fn can_mount() -> bool {
    if !root() || !have("losetup") || !have("mount") {
        return false;
    }
    let free = Command::new("losetup").arg("-f").output().is_ok_and(|output| output.status.success());
    assert!(free || std::env::var_os("CI").is_none(), "there are no loop devices, and CI must not skip tests");
    if !free {
        super::support::skipped(format_args!("needs a loop device"));
    }
    free
}

impl Mounted {
    /// Mounts `image` with `options` beside `loop`; the kernel's refusal otherwise.
    pub fn new(image: &Path, options: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("loop,{options}")]).arg(image).arg(directory.path());
        let output = mount.output().unwrap();
        if output.status.success() {
            Ok(Self { directory })
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.directory.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "cannot unmount");
    }
}

//! Directories to be stored, and GNU find as the witness of what they are.

use std::path::Path;

use guestctl::cache::{Digest, ImportOptions, InitOptions, Ref, RestoreOptions, RestoreReport, Store};
use guestctl::ops::{CacheAddOptions, Preserve, cache_seed};
use guestctl::progress::Silent;

use super::support::shell;

/// A small directory of everything that an ordinary user can make.
pub fn ordinary(directory: &Path) {
    shell(
        directory,
        r#"mkdir -p tree/etc/ssh tree/usr/bin tree/var/log tree/empty; cd tree
        printf 'web1\n' > etc/hostname; : > etc/nothing; head -c 64 /dev/urandom > etc/inline; head -c 65 /dev/urandom > etc/packed
        head -c 5000 /dev/urandom > usr/bin/small; head -c 300000 /dev/urandom > usr/bin/large; cp usr/bin/small usr/bin/copy
        cp usr/bin/large usr/bin/large-copy; ln usr/bin/large usr/bin/linked; ln etc/packed var/packed-again
        ln -s ../bin/large usr/link; ln -s /nowhere 'dangling link'; mkfifo var/fifo
        printf 'x' > 'name with
newline'; printf 'y' > "$(printf 'bad\377byte')"
        truncate -s 3M var/sparse; printf 'data' | dd of=var/sparse bs=1 seek=1048576 conv=notrunc 2>/dev/null
        printf 'end' | dd of=var/sparse bs=1 seek=3145720 conv=notrunc 2>/dev/null; truncate -s 1M var/hole
        chmod 4755 usr/bin/small; chmod 0600 etc/ssh; chmod 1777 var/log; chmod 0444 etc/inline; chmod 0700 etc/ssh
        touch -d '1999-12-31 23:59:58.123456789' etc/packed usr/bin/large; touch -hd '2001-02-03 04:05:06' usr/link
        touch -d '2038-01-20 00:00:00.5' var/log; touch -d '1965-01-01 00:00:00' empty"#,
    );
}

/// What find and sha256sum say of a directory: everything but times of access and change. `full` adds owners.
pub fn witness(directory: &Path, full: bool) -> String {
    let owner = if full { " %U:%G" } else { "" };
    let script = format!(
        r"find . -mindepth 1 -printf '%P %y %m %T@ %l %n{owner} ' \( -type f -printf '%s' -o -printf '-' \) -printf '\0' | sort -z | tr '\0' '\n'
        find . -type f -print0 | sort -z | xargs -0 sha256sum
        stat -c 'root %a %Y' ."
    );
    // Names that no terminal takes are bytes to both.
    String::from_utf8_lossy(&shell(directory, &script).stdout).into_owned()
}

pub fn store(directory: &Path) -> Store {
    Store::init(directory.join("store"), &InitOptions { pack_threshold: Some(16 << 10), ..InitOptions::default() })
        .unwrap()
}

/// Stores a directory under a name.
pub fn seed(store: &Store, directory: &Path, name: &str) -> guestctl::Result<Digest> {
    let mut options = CacheAddOptions::default();
    options.import = ImportOptions { keep_times: false, ..ImportOptions::default() };
    options.reference = Some(Ref::new("trees", name, Digest::of(b""))?);
    Ok(cache_seed(store, directory, &options, &Silent)?.imported.tree)
}

/// All that the user who runs this can be given.
pub fn options() -> RestoreOptions {
    RestoreOptions { preserve: preserve(), ..RestoreOptions::default() }
}

pub fn preserve() -> Preserve {
    let root = rustix::process::geteuid().is_root();
    if root { Preserve::all() } else { Preserve { setid: true, ..Preserve::default() } }
}

pub fn bring_back(store: &Store, tree: &Digest, target: &Path) -> guestctl::Result<RestoreReport> {
    store.restore(tree, target, &options(), &Silent)
}

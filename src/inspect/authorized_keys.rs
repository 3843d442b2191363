//! Keys that may log in over SSH: `authorized_keys` and `authorized_keys2` of every home, the files of its
//! `authorized_keys.d` (Fedora CoreOS), and `/etc/ssh/authorized_keys.d` (NixOS). Other places that sshd_config names are
//! not looked at.

use super::reader::Reader;
use super::ssh::{PublicKey, public_keys};
use super::users::User;
use crate::error::Result;
use crate::limits;

/// One key and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthorizedKey {
    /// The user's name.
    pub(super) user: String,
    pub(super) key: PublicKey,
    /// The guest file that holds it.
    pub(super) source: String,
}

/// The keys, in the order of the users and of the files.
pub(super) fn authorized_keys(reader: &Reader<'_>, users: &[User]) -> Result<Vec<AuthorizedKey>> {
    let mut found = Vec::new();
    for user in users.iter().filter(|user| user.home.starts_with('/')) {
        let ssh = format!("{}/.ssh", user.home.trim_end_matches('/'));
        let mut files = vec![format!("/etc/ssh/authorized_keys.d/{}", user.name)];
        if reader.is_dir(&ssh)? {
            files.extend(["authorized_keys", "authorized_keys2"].map(|name| format!("{ssh}/{name}")));
            let names = reader.names(&format!("{ssh}/authorized_keys.d"))?;
            files.extend(names.into_iter().map(|name| format!("{ssh}/authorized_keys.d/{name}")));
        }
        for path in files {
            let Some(text) = reader.text(&path)? else { continue };
            for key in public_keys(&text.value) {
                if found.len() >= limits::INSPECT_ENTRIES {
                    reader.notes().add(format!("only the first {} authorized keys are listed", found.len()));
                    return Ok(found);
                }
                found.push(AuthorizedKey { user: user.name.clone(), key, source: text.source.clone() });
            }
        }
    }
    reader.notes().tolerate(reader.guest().spend_entries(found.len()))?;
    Ok(found)
}

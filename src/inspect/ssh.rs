//! SSH host keys, by the names of their public halves; clones of an image that has some share them. Public keys in the text
//! of any file, with the fingerprints that ssh-keygen shows.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reader::Reader;
use crate::error::Result;

/// One host key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshHostKey {
    /// `rsa`, `ecdsa`, `ed25519`.
    pub key_type: String,
    /// The public key's guest path.
    pub source: String,
}

/// The keys in `/etc/ssh`, sorted by type.
pub(super) fn host_keys(reader: &Reader<'_>) -> Result<Vec<SshHostKey>> {
    let names = reader.names("/etc/ssh")?;
    let keys = names.iter().filter_map(|name| {
        let key_type = name.strip_prefix("ssh_host_")?.strip_suffix("_key.pub")?.to_owned();
        Some(SshHostKey { key_type, source: format!("/etc/ssh/{name}") })
    });
    Ok(keys.collect())
}

/// One public key in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256` …
    pub(super) key_type: String,
    /// `SHA256:` and the digest in base64, as ssh-keygen shows it.
    pub(super) fingerprint: String,
    /// What stands before the key in an authorized_keys file.
    pub(super) options: Option<String>,
    /// What stands behind it.
    pub(super) comment: Option<String>,
}

/// The keys in a text, one a line at most: a word that is a key's type, and behind it that key in base64. Quotes around it
/// are YAML's.
pub(super) fn public_keys(text: &str) -> Vec<PublicKey> {
    text.lines().filter_map(public_key).collect()
}

fn public_key(line: &str) -> Option<PublicKey> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let mut at = 0usize;
    for word in line.split([' ', '\t']) {
        let (before, rest) = line.split_at_checked(at)?;
        at = at.saturating_add(word.len()).saturating_add(1);
        let key_type = word.trim_start_matches(['"', '\'', '[']);
        if !["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| key_type.starts_with(start)) {
            continue;
        }
        let (key, comment) = {
            let rest = rest.get(word.len()..)?.trim_start();
            rest.split_once([' ', '\t']).unwrap_or((rest, ""))
        };
        let Ok(blob) = STANDARD.decode(key.trim_end_matches(['"', '\'', ']', ','])) else { continue };
        // The key begins with its type, as a string with its length before it.
        let named = blob.get(4..).is_some_and(|rest| rest.starts_with(key_type.as_bytes()));
        let length = blob.first_chunk::<4>().map(|length| u32::from_be_bytes(*length));
        if !named || length != u32::try_from(key_type.len()).ok() {
            continue;
        }
        // Quotes that began before the key end behind it.
        let is_quoted = key_type.len() < word.len();
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let comment = if is_quoted { comment.trim_end_matches(['"', '\'', ']', ',']) } else { comment };
        return Some(PublicKey {
            key_type: key_type.to_owned(),
            fingerprint: format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&blob))),
            options: text(before.trim()),
            comment: text(comment.trim()),
        });
    }
    None
}

/// A digest in hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_with_options_and_in_yaml() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMfPJZTFWVbrXwmZU8nqVGUYvQNbWvGFFsYGqT+y3OxT";
        let found = public_keys(&format!(
            "# {key}\n{key}\nfrom=\"10.0.0.1\",no-pty {key} me@here\n  - \"{key} you\"\nssh-rsa AAAA nonsense\n"
        ));
        let parts =
            |key: &PublicKey| (key.options.clone().unwrap_or_default(), key.comment.clone().unwrap_or_default());
        let parts: Vec<_> = found.iter().map(parts).collect();
        let text = |left: &str, right: &str| (left.to_owned(), right.to_owned());
        assert_eq!(parts, [text("", ""), text("from=\"10.0.0.1\",no-pty", "me@here"), text("-", "you")]);
        assert!(found.iter().all(|key| key.fingerprint == found[0].fingerprint));
    }
}

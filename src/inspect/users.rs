//! Users and groups: passwd(5), group(5) and, of shadow(5), only whether a password is set. No hash leaves this module.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::reader::{Reader, Sourced};
use crate::error::Result;
use crate::limits;

/// Whether one can log in with a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Password {
    /// There is one.
    Set,
    /// None is asked for.
    Empty,
    /// None fits (`!`, `*`).
    Locked,
    /// shadow has no line for the user.
    Unknown,
}

/// One line of passwd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// The full name and what else the field holds.
    pub gecos: String,
    /// The home directory.
    pub home: String,
    /// The shell.
    pub shell: String,
    /// Whether one can log in with a password.
    pub password: Password,
}

/// One line of group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The name.
    pub name: String,
    /// The group's number.
    pub gid: u32,
    /// The members' names, primary members not included.
    pub members: Vec<String>,
}

/// The users in the order of passwd.
pub(super) fn users(reader: &Reader<'_>) -> Result<Option<Sourced<Vec<User>>>> {
    let shadow = reader.text("/etc/shadow")?.map(|text| text.value).unwrap_or_default();
    let passwords = passwords(&shadow);
    let Some(text) = reader.text("/etc/passwd")? else { return Ok(None) };
    let lines = text.value.lines().filter_map(|line| user(line, &passwords));
    let users: Vec<User> = lines.take(limits::INSPECT_ENTRIES).collect();
    if users.len() == limits::INSPECT_ENTRIES {
        reader.notes().add(format!("{}: only the first {} users are listed", text.source, users.len()));
    }
    let paid = reader.notes().tolerate(reader.guest().spend_entries(users.len()))?;
    Ok(paid.map(|()| Sourced::new(users, text.source)))
}

/// The groups in the order of group.
pub(super) fn groups(reader: &Reader<'_>) -> Result<Option<Sourced<Vec<Group>>>> {
    let Some(text) = reader.text("/etc/group")? else { return Ok(None) };
    let mut groups = Vec::new();
    let mut names = 0usize;
    for group in text.value.lines().filter_map(group) {
        names = names.saturating_add(1).saturating_add(group.members.len());
        if names > limits::INSPECT_ENTRIES {
            reader.notes().add(format!("{}: only the first {} groups are listed", text.source, groups.len()));
            break;
        }
        groups.push(group);
    }
    let paid = reader.notes().tolerate(reader.guest().spend_entries(names))?;
    Ok(paid.map(|()| Sourced::new(groups, text.source)))
}

/// The password fields of shadow by user, to be compared with another guest's and never shown.
pub(super) fn password_fields(reader: &Reader<'_>) -> Result<HashMap<String, String>> {
    let shadow = reader.text("/etc/shadow")?.map(|text| text.value).unwrap_or_default();
    let pairs = shadow.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    Ok(pairs.take(limits::INSPECT_ENTRIES).collect())
}

fn passwords(shadow: &str) -> HashMap<&str, Password> {
    let pairs = shadow.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, password(fields.next()?)))
    });
    pairs.take(limits::INSPECT_ENTRIES).collect()
}

fn password(field: &str) -> Password {
    match field.as_bytes().first() {
        None => Password::Empty,
        Some(b'!' | b'*') => Password::Locked,
        Some(_) => Password::Set,
    }
}

fn user(line: &str, passwords: &HashMap<&str, Password>) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let password = match fields.next()? {
        "x" => passwords.get(name).copied().unwrap_or(Password::Unknown),
        field => password(field),
    };
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let mut text = || fields.next().unwrap_or_default().to_owned();
    Some(User { name: name.to_owned(), uid, gid, gecos: text(), home: text(), shell: text(), password })
}

fn group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default().split(',').map(str::trim);
    let members = members.filter(|member| !member.is_empty()).take(limits::INSPECT_ENTRIES);
    Some(Group { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_a_password_state_and_never_a_hash() {
        let passwords = passwords("root:*:19000:0:::::\nadmin:$y$j9T$secret:1::::::\nguest::1:::::\n");
        for (line, state) in [
            ("root:x:0:0:root:/root:/bin/bash", Some(Password::Locked)),
            ("admin:x:1000:1000:Admin,,,:/home/admin:/bin/sh", Some(Password::Set)),
            ("guest:x:1001:1001::/:/bin/false", Some(Password::Empty)),
            ("other:x:5:5:::", Some(Password::Unknown)),
            ("old:$1$secret:6:6:::", Some(Password::Set)),
            ("+::::::", None),
            ("bad:x:abc:0:::", None),
            ("short:x", None),
        ] {
            let user = user(line, &passwords);
            assert_eq!(user.as_ref().map(|user| user.password), state, "{line}");
            assert!(!format!("{user:?}").contains("secret"));
        }
        let admin = user("admin:x:1000:100:Admin,,,:/home/admin:/bin/sh", &passwords).unwrap();
        assert_eq!((admin.uid, admin.gid, admin.gecos.as_str()), (1000, 100, "Admin,,,"));
        assert_eq!((admin.home.as_str(), admin.shell.as_str()), ("/home/admin", "/bin/sh"));
    }

    #[test]
    fn groups_have_members() {
        let sudo = group("sudo:x:27:admin, guest,").unwrap();
        assert_eq!((sudo.gid, sudo.members), (27, vec!["admin".to_owned(), "guest".to_owned()]));
        assert_eq!(group("nogid:x::"), None);
    }
}

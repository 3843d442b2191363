//! Time zone, locale and keyboard layout, wherever the distribution keeps them.

use super::assignments;
use super::reader::{Reader, Sourced, first_line};
use crate::error::Result;

/// `Europe/Berlin`: where `/etc/localtime` leads, else what a file says.
pub(super) fn timezone(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    let zone = |target: String| target.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned());
    if let Some(found) = reader.link("/etc/localtime")?.and_then(|link| link.filter_map(zone)) {
        return Ok(Some(found));
    }
    if let Some(found) = reader.first(&["/etc/timezone", "/etc/TZ"], first_line)? {
        return Ok(Some(found));
    }
    let keys = ["ZONE", "TIMEZONE", "timezone"];
    let assigned = |text: &str| keys.into_iter().find_map(|key| assignments::find(text, key));
    reader.first(&["/etc/sysconfig/clock", "/etc/conf.d/clock", "/etc/rc.conf"], assigned)
}

/// `LANG`: `de_DE.UTF-8`.
pub(super) fn locale(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    const FILES: [&str; 7] = [
        "/etc/locale.conf",
        "/etc/default/locale",
        "/etc/sysconfig/i18n",
        "/etc/sysconfig/language",
        "/etc/env.d/02locale",
        "/etc/profile.d/00locale.sh",
        "/etc/profile.d/20locale.sh",
    ];
    reader.first(&FILES, |text| ["LANG", "RC_LANG"].into_iter().find_map(|key| assignments::find(text, key)))
}

/// The keyboard layout: `de`, `us`.
pub(super) fn keymap(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    const FILES: [&str; 6] = [
        "/etc/vconsole.conf",
        "/etc/default/keyboard",
        "/etc/sysconfig/keyboard",
        "/etc/conf.d/keymaps",
        "/etc/conf.d/loadkmap",
        "/etc/rc.conf",
    ];
    const KEYS: [&str; 6] = ["KEYMAP", "XKBLAYOUT", "KEYTABLE", "keymap", "KEYMAP_CONSOLE", "KEYMAP_FILE"];
    reader.first(&FILES, |text| KEYS.into_iter().find_map(|key| assignments::find(text, key)))
}

/// The SELinux mode that the next boot will have: `enforcing`, `permissive`, `disabled`.
pub(super) fn selinux(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    reader.first(&["/etc/selinux/config", "/etc/sysconfig/selinux"], |text| assignments::find(text, "SELINUX"))
}

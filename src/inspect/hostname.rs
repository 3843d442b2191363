//! The host name: `/etc/HOSTNAME`, `/etc/hostname`, then `HOSTNAME=` of sysconfig and OpenRC, in libguestfs's order.

use super::assignments;
use super::reader::{Reader, Sourced, first_line};
use crate::error::Result;

/// The host name as configured; not what DHCP may make of it.
pub(super) fn hostname(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    if let Some(found) = reader.first(&["/etc/HOSTNAME", "/etc/hostname"], first_line)? {
        return Ok(Some(found));
    }
    let assigned = |text: &str| ["HOSTNAME", "hostname"].into_iter().find_map(|key| assignments::find(text, key));
    reader.first(&["/etc/sysconfig/network", "/etc/conf.d/hostname", "/etc/rc.conf"], assigned)
}

//! How much memory is left for this process: the system's, and what its control groups allow.

use std::path::{Path, PathBuf};

/// Bytes that can be used without anybody being pushed out; `None` where the system does not say.
pub(super) fn available() -> Option<u64> {
    available_at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn available_at(proc: &Path, cgroup: &Path) -> Option<u64> {
    let system = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.trim();
        kib.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let groups = groups.lines().filter_map(|line| group(line, cgroup)).flatten();
    groups.chain(system).min()
}

/// What a line of /proc/self/cgroup leaves: `0::/path` of version 2, `7:memory:/path` of version 1. A limit can stand at any
/// group above, too.
fn group(line: &str, mounted: &Path) -> Option<Vec<u64>> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (top, names) = if number == "0" && controllers.is_empty() {
        (mounted.to_owned(), ["memory.max", "memory.current", "inactive_file"])
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (mounted.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
    } else {
        return None;
    };
    let path = Path::new(path.trim_start_matches('/'));
    if path.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        // The group lies outside of what this namespace shows.
        return Some(left(&top, names).into_iter().collect());
    }
    Some(path.ancestors().filter_map(|path| left(&top.join(path), names)).collect())
}

fn left(group: &Path, [limit, current, inactive]: [&str; 3]) -> Option<u64> {
    let number = |file: PathBuf| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    // `max` is no number.
    let limit = number(group.join(limit))?;
    let current = number(group.join(current))?;
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(current.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> Option<u64> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        available_at(&directory.path().join("proc"), &directory.path().join("cgroup"))
    }

    #[test]
    fn the_narrowest_limit_counts() {
        let meminfo = ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    1000 kB\n");
        assert_eq!(system(&[]), None);
        assert_eq!(system(&[meminfo]), Some(1_024_000));
        let unified = ("proc/self/cgroup", "0::/a.slice/b.scope\n");
        assert_eq!(system(&[meminfo, unified]), Some(1_024_000));
        let own = [
            meminfo,
            unified,
            ("cgroup/a.slice/b.scope/memory.max", "max\n"),
            ("cgroup/a.slice/b.scope/memory.current", "5\n"),
            ("cgroup/a.slice/memory.max", "500000\n"),
            ("cgroup/a.slice/memory.current", "400000\n"),
            ("cgroup/a.slice/memory.stat", "anon 1\ninactive_file 300000\nactive_file 7\n"),
        ];
        assert_eq!(system(&own), Some(400_000));
        let old = [
            meminfo,
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n"),
            ("cgroup/memory/x/memory.limit_in_bytes", "1000\n"),
            ("cgroup/memory/x/memory.usage_in_bytes", "900\n"),
            ("cgroup/memory/x/memory.stat", "total_inactive_file 50\n"),
        ];
        assert_eq!(system(&old), Some(150));
        assert_eq!(system(&[meminfo, ("proc/self/cgroup", "0::/../../x\n")]), Some(1_024_000));
    }
}

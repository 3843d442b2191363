//! Packages that came, went or have another version.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{Difference, DifferenceKind, Fields, difference};
use crate::inspect::packages::{Package, PackageFormat, PackageList, version_order};

/// Packages of one name by format and what can differ of them.
type Installed<'a> = BTreeMap<(PackageFormat, Fields), &'a Package>;

/// The differences, sorted by name. A package that either side has once is compared, whatever its architecture; of several
/// of one name (kernels, several architectures) those that are not on both sides came or went.
pub(super) fn differences(old: &[PackageList], new: &[PackageList]) -> Vec<Difference> {
    let (mut old, mut new) = (by_name(old), by_name(new));
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    let mut found = Vec::new();
    for name in names {
        pair(name, old.remove(name).unwrap_or_default(), new.remove(name).unwrap_or_default(), &mut found);
    }
    found
}

fn by_name(lists: &[PackageList]) -> BTreeMap<&str, Installed<'_>> {
    let mut by_name: BTreeMap<&str, Installed<'_>> = BTreeMap::new();
    for list in lists {
        for package in &list.packages {
            by_name.entry(&package.name).or_default().insert((list.format, fields(list.format, package)), package);
        }
    }
    by_name
}

/// Compares the packages of one name.
fn pair(name: &str, old: Installed<'_>, new: Installed<'_>, found: &mut Vec<Difference>) {
    // What both sides have is no news.
    let left: Vec<_> = old.iter().filter(|(identity, _)| !new.contains_key(*identity)).collect();
    let right: Vec<_> = new.iter().filter(|(identity, _)| !old.contains_key(*identity)).collect();
    if let ([((format, was), from)], [((other, is), to)]) = (&left[..], &right[..])
        && format == other
    {
        found.extend(changed(name, *format, (was, from), (is, to)));
        return;
    }
    // One of each architecture: another version of the same.
    let mut kinds: BTreeMap<_, (Vec<_>, Vec<_>)> = BTreeMap::new();
    for ((format, fields), package) in left {
        kinds.entry((*format, &package.arch)).or_default().0.push((fields, *package));
    }
    for ((format, fields), package) in right {
        kinds.entry((*format, &package.arch)).or_default().1.push((fields, *package));
    }
    for ((format, _), (left, right)) in kinds {
        if let ([(was, from)], [(is, to)]) = (&left[..], &right[..]) {
            found.extend(changed(name, format, (was, from), (is, to)));
            continue;
        }
        found.extend(left.into_iter().filter_map(|(fields, _)| difference(name, Some(fields), None)));
        found.extend(right.into_iter().filter_map(|(fields, _)| difference(name, None, Some(fields))));
    }
}

fn changed(
    name: &str,
    format: PackageFormat,
    (was, old): (&Fields, &Package),
    (is, new): (&Fields, &Package),
) -> Option<Difference> {
    let mut changed = difference(name, Some(was), Some(is))?;
    changed.change = match version_order(format, old, new) {
        Ordering::Less => DifferenceKind::Upgraded,
        Ordering::Greater => DifferenceKind::Downgraded,
        Ordering::Equal => DifferenceKind::Changed,
    };
    Some(changed)
}

fn fields(format: PackageFormat, package: &Package) -> Fields {
    let arch = Some(package.arch.clone()).filter(|arch| !arch.is_empty());
    let fields =
        [("version", Some(package.full_version())), ("arch", arch), ("format", Some(format.name().to_owned()))];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

//! A volume group as its metadata text describes it: names, physical volumes, logical volumes and their segments. Pure:
//! text in, [`Group`] out. The words are those of lvm2's `lib/format_text/export.c`; see also `lvm.conf(5)`, `lvs(8)`.
//!
//! | section | field | unit, accepted |
//! |---|---|---|
//! | group | id, seqno | |
//! | | extent_size | 512-byte sectors, not 0 |
//! | physical_volumes/NAME | id | |
//! | | pe_start | sectors from the volume's start |
//! | | pe_count | extents |
//! | logical_volumes/NAME | id, status | shown only with VISIBLE |
//! | | segmentN: start_extent, extent_count | extents, without gaps |
//! | | segmentN: type | `striped` or `linear`; others are kept by name |
//! | | segmentN: stripe_size | sectors, when there is more than one stripe |
//! | | segmentN: stripes | \[ physical volume, first extent, … \] |

use std::collections::HashMap;

use super::config::{self, Section, Value};
use super::label::FORMAT;
use crate::bytes::{escape, to_u64};
use crate::error::{Error, Result};
use crate::limits;

const SECTOR: u64 = 512;

/// One volume group; sizes in bytes where not said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) seqno: u64,
    pub(super) extent_size: u64,
    pub(super) exported: bool,
    pub(super) physical: Vec<Physical>,
    pub(super) logical: Vec<Logical>,
}

/// A physical volume as its group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Physical {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) start: u64,
    /// Extents.
    pub(super) extents: u64,
}

/// A logical volume that lvm2 shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logical {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) tags: Vec<String>,
    pub(super) writable: bool,
    pub(super) segments: Segments,
}

/// Where a logical volume lies, if its segments are of kinds that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segments {
    Striped(Vec<Segment>),
    /// The first segment's kind that is not.
    Unsupported(String),
}

/// A run of a logical volume over one or more stripes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Extents of the logical volume.
    pub(super) extents: u64,
    /// Bytes that go to one stripe before the next gets some; `None` for a linear segment.
    pub(super) stripe_size: Option<u64>,
    /// (index into [`Group::physical`], first extent there).
    pub(super) stripes: Vec<(usize, u64)>,
}

/// Reads the text, which was found at byte `offset` of its device.
pub(super) fn parse(text: &str, offset: u64) -> Result<Group> {
    let file = config::parse(text, offset)?;
    let found = file.sections().find(|(_, section)| section.get("physical_volumes").is_some());
    let (name, group) = found.ok_or_else(|| Error::corrupt(FORMAT, "volume group", offset, "none", "one section"))?;
    let reader = Reader { offset };
    let extent_size = reader.number(group, "extent_size")?;
    let extent_size = extent_size
        .checked_mul(SECTOR)
        .filter(|&size| size > 0)
        .ok_or_else(|| reader.corrupt("extent_size", extent_size, "a positive number of sectors"))?;
    let physical = reader.physical_volumes(group)?;
    let logical = reader.logical_volumes(group, &physical, extent_size)?;
    Ok(Group {
        name: reader.name(name)?,
        uuid: reader.uuid(group)?,
        seqno: reader.number(group, "seqno")?,
        extent_size,
        exported: group.texts("status").any(|status| status == "EXPORTED"),
        physical,
        logical,
    })
}

/// Takes fields out of sections; knows where the text was for messages.
struct Reader {
    offset: u64,
}

impl Reader {
    fn corrupt(&self, field: &'static str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
        Error::corrupt(FORMAT, field, self.offset, found, expected)
    }

    fn number(&self, section: &Section<'_>, key: &'static str) -> Result<u64> {
        section.number(key).ok_or_else(|| self.corrupt(key, "nothing", "a number"))
    }

    fn text(&self, section: &Section<'_>, key: &'static str) -> Result<String> {
        section.text(key).map(str::to_owned).ok_or_else(|| self.corrupt(key, "nothing", "a string"))
    }

    /// The `id` of a group or volume; it is shown to the user.
    fn uuid(&self, section: &Section<'_>) -> Result<String> {
        let id = self.text(section, "id")?;
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(self.corrupt("id", escape(id.as_bytes()), "letters, digits and dashes"));
        }
        Ok(id)
    }

    /// A group's or volume's name becomes a part of a device path, so lvm2's own rules for it are held.
    fn name(&self, name: &str) -> Result<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
        if matches!(name, "" | "." | "..") || name.starts_with('-') || name.len() > 127 || !name.chars().all(allowed) {
            return Err(self.corrupt("name", escape(name.as_bytes()), "letters, digits and +_.-"));
        }
        Ok(name.to_owned())
    }

    fn physical_volumes(&self, group: &Section<'_>) -> Result<Vec<Physical>> {
        let volumes = group.section("physical_volumes").into_iter().flat_map(Section::sections);
        let volume = |(name, section): (&str, &Section<'_>)| {
            let start = self.number(section, "pe_start")?;
            Ok(Physical {
                name: name.to_owned(),
                uuid: self.uuid(section)?,
                start: start.checked_mul(SECTOR).ok_or_else(|| self.corrupt("pe_start", start, "a sector"))?,
                extents: self.number(section, "pe_count")?,
            })
        };
        volumes.map(volume).collect()
    }

    fn logical_volumes(&self, group: &Section<'_>, physical: &[Physical], extent_size: u64) -> Result<Vec<Logical>> {
        let Some(volumes) = group.section("logical_volumes") else { return Ok(Vec::new()) };
        let index = physical.iter().enumerate().map(|(index, volume)| (volume.name.as_str(), index)).collect();
        let special = special_volumes(volumes);
        let mut budget = limits::LVM_SEGMENTS;
        let mut logical = Vec::new();
        for (name, volume) in volumes.sections() {
            if !volume.texts("status").any(|status| status == "VISIBLE") {
                continue;
            }
            let segments = match special.get(name) {
                Some(kind) => Segments::Unsupported((*kind).to_owned()),
                None => self.segments(volume, physical, &index, extent_size, &mut budget)?,
            };
            logical.push(Logical {
                name: self.name(name)?,
                uuid: self.uuid(volume)?,
                tags: volume.texts("tags").map(str::to_owned).collect(),
                writable: volume.texts("status").any(|status| status == "WRITE"),
                segments,
            });
        }
        Ok(logical)
    }

    fn segments(
        &self,
        volume: &Section<'_>,
        physical: &[Physical],
        index: &HashMap<&str, usize>,
        extent_size: u64,
        budget: &mut u64,
    ) -> Result<Segments> {
        let mut segments = Vec::new();
        let mut next = 0u64;
        let stated = self.number(volume, "segment_count")?;
        for (_, section) in volume.sections().filter(|(name, _)| name.starts_with("segment")) {
            let stripes = section.list("stripes");
            let cost = to_u64(stripes.len()).saturating_add(1);
            *budget = budget.checked_sub(cost).ok_or_else(|| {
                Error::limit("LVM segments", limits::LVM_SEGMENTS, limits::LVM_SEGMENTS.saturating_add(1))
            })?;
            let kind = self.text(section, "type")?;
            if kind != "striped" && kind != "linear" {
                return Ok(Segments::Unsupported(escape(kind.as_bytes())));
            }
            let start = self.number(section, "start_extent")?;
            if start != next {
                return Err(self.corrupt("start_extent", start, next));
            }
            let Some(segment) = self.striped(section, physical, index, extent_size)? else {
                return Ok(Segments::Unsupported("striped over another logical volume".to_owned()));
            };
            next = next
                .checked_add(segment.extents)
                .ok_or_else(|| self.corrupt("extent_count", segment.extents, "fewer extents"))?;
            segments.push(segment);
        }
        let found = to_u64(segments.len());
        if found == 0 || found != stated || next.checked_mul(extent_size).is_none_or(|size| size > u64::MAX >> 1) {
            return Err(self.corrupt("segment_count", stated, format!("{found} segments of less than 8 EiB")));
        }
        Ok(Segments::Striped(segments))
    }

    /// One segment; `None` if a stripe of it is no physical volume.
    fn striped(
        &self,
        section: &Section<'_>,
        physical: &[Physical],
        index: &HashMap<&str, usize>,
        extent_size: u64,
    ) -> Result<Option<Segment>> {
        let extents = self.number(section, "extent_count")?;
        let (pairs, rest) = section.list("stripes").as_chunks::<2>();
        let count = to_u64(pairs.len());
        let per_stripe = extents.checked_div(count).filter(|per| per.checked_mul(count) == Some(extents) && *per > 0);
        let Some(per_stripe) = per_stripe.filter(|_| rest.is_empty()) else {
            return Err(self.corrupt("extent_count", extents, format!("a positive multiple of {count} stripes")));
        };
        let stated = section.number("stripe_count").unwrap_or(1);
        if stated != count {
            return Err(self.corrupt("stripe_count", stated, count));
        }
        let stripe_size = match count {
            1 => None,
            _ => Some(self.stripe_size(section, per_stripe.saturating_mul(extent_size))?),
        };
        let mut stripes = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let [Value::Text(name), Value::Number(first)] = pair else {
                return Err(self.corrupt("stripes", "another list", "[ physical volume, first extent, ... ]"));
            };
            let Some((at, volume)) = index.get(&**name).and_then(|&at| Some((at, physical.get(at)?))) else {
                return Ok(None);
            };
            if first.checked_add(per_stripe).is_none_or(|end| end > volume.extents) {
                let expected = format!("{per_stripe} extents from there inside the {} of {name}", volume.extents);
                return Err(self.corrupt("stripes", first, expected));
            }
            stripes.push((at, *first));
        }
        Ok(Some(Segment { extents, stripe_size, stripes }))
    }

    fn stripe_size(&self, section: &Section<'_>, bytes_per_stripe: u64) -> Result<u64> {
        let sectors = self.number(section, "stripe_size")?;
        let size = sectors.checked_mul(SECTOR).filter(|&size| bytes_per_stripe.checked_rem(size) == Some(0));
        size.ok_or_else(|| self.corrupt("stripe_size", sectors, format!("a divisor of {bytes_per_stripe} bytes")))
    }
}

/// Volumes whose own segments do not say what they are: the copy-on-write store of a snapshot is not the snapshot, and
/// the origin of a merging snapshot is not up to date.
fn special_volumes<'a>(volumes: &'a Section<'_>) -> HashMap<&'a str, &'static str> {
    let mut special = HashMap::new();
    for (_, volume) in volumes.sections() {
        for (_, segment) in volume.sections().filter(|(_, segment)| segment.text("type") == Some("snapshot")) {
            special.extend(segment.text("cow_store").map(|store| (store, "snapshot")));
            if let Some(store) = segment.text("merging_store") {
                special.insert(store, "snapshot");
                special.extend(segment.text("origin").map(|origin| (origin, "snapshot-merge")));
            }
        }
    }
    special
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"vg { id = "V" seqno = 3 status = ["READ"] extent_size = 8
        physical_volumes {
            pv0 { id = "A" pe_start = 2048 pe_count = 10 }
            pv1 { id = "B" pe_start = 2048 pe_count = 10 } }
        logical_volumes {
            root { id = "R" status = ["READ", "WRITE", "VISIBLE"] segment_count = 2
                segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 3] }
                segment2 { start_extent = 2 extent_count = 4 type = "striped" stripe_count = 2 stripe_size = 4
                    stripes = ["pv0", 5, "pv1", 0] } }
            pool { id = "P" status = ["READ", "VISIBLE"] segment_count = 1
                segment1 { start_extent = 0 extent_count = 1 type = "thin-pool" } }
            pool_tmeta { id = "H" status = ["READ"] segment_count = 1
                segment1 { start_extent = 0 extent_count = 1 type = "raid1" } }
            cow { id = "C" status = ["READ", "VISIBLE"] segment_count = 1
                segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } }
            snapshot0 { id = "S" status = ["READ"] segment_count = 1
                segment1 { start_extent = 0 extent_count = 1 type = "snapshot" origin = "root" cow_store = "cow" } }
        } }"#;

    #[test]
    fn a_group_with_every_kind_of_volume() {
        let group = parse(TEXT, 0).unwrap();
        assert_eq!((group.name.as_str(), group.extent_size, group.seqno), ("vg", 4096, 3));
        let names: Vec<_> = group.logical.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["root", "pool", "cow"]);
        let expected = vec![
            Segment { extents: 2, stripe_size: None, stripes: vec![(0, 3)] },
            Segment { extents: 4, stripe_size: Some(2048), stripes: vec![(0, 5), (1, 0)] },
        ];
        assert_eq!(group.logical[0].segments, Segments::Striped(expected));
        assert_eq!(group.logical[1].segments, Segments::Unsupported("thin-pool".to_owned()));
        assert_eq!(group.logical[2].segments, Segments::Unsupported("snapshot".to_owned()));
    }

    #[test]
    fn each_check_names_its_field() {
        for (from, to, field) in [
            ("extent_size = 8", "extent_size = 0", "extent_size"),
            ("extent_size = 8", "", "extent_size"),
            ("pe_start = 2048", "pe_start = 18446744073709551615", "pe_start"),
            ("start_extent = 2", "start_extent = 3", "start_extent"),
            ("extent_count = 4", "extent_count = 5", "extent_count"),
            ("extent_count = 4", "extent_count = 0", "extent_count"),
            ("stripe_size = 4", "stripe_size = 0", "stripe_size"),
            ("stripe_size = 4", "stripe_size = 5", "stripe_size"),
            ("stripe_count = 2", "stripe_count = 3", "stripe_count"),
            ("\"pv1\", 0", "\"pv1\", 9", "stripes"),
            ("segment_count = 2", "segment_count = 3", "segment_count"),
            ("id = \"B\"", "id = \"\u{1b}[31m\"", "id"),
            ("root {", "ro/ot {", "name"),
            ("vg {", ".. {", "name"),
        ] {
            let error = parse(&TEXT.replacen(from, to, 1), 0).unwrap_err();
            assert_eq!(error.as_corrupt().map(|corrupt| corrupt.field), Some(field), "{from} → {to}: {error}");
        }
    }
}

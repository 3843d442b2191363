//! What VDI, VHD and VHDX have in common: the disk is cut into large blocks, and a table says where each lies.
//!
//! | part | is about |
//! |---|---|
//! | `entries` | a table of such places, read in slices |
//! | `bitmap` | which sectors of a block are its own and not its parent's |
//! | `mapped` | a disk read through a map of blocks |
//! | `starts` | blocks that overlap, for checks |
//! | `placement` | blocks of a new image, given out as they are needed |

mod bitmap;
mod entries;
mod mapped;
mod placement;
mod starts;

pub(super) use bitmap::{BitOrder, SectorBitmaps};
pub(super) use entries::{Entries, Width, Window};
pub(super) use mapped::{BlockMap, Identity, Mapped, Place, Run};
pub(super) use placement::{Placement, Structure, blocks, identifier, mixed_endian, table_end, write_at, write_table};
pub(super) use starts::Starts;

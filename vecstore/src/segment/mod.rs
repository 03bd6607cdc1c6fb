//! One immutable segment file: writing, mapping, checking and searching it.

mod agree;
mod ahead;
mod check;
mod contents;
mod derived;
mod encoded;
mod filter;
#[cfg(test)]
mod forged;
mod joined;
mod name;
mod norms;
mod pieces;
mod reader;
mod search;
mod sorted;
mod tables;
mod writer;

pub(crate) use ahead::ask_for;
pub(crate) use check::{
    SegmentFault, Step, block_crcs, body_of, check_file, check_open, check_pieces, check_unmapped, range_of,
};
pub(crate) use derived::DerivedFile;
pub(crate) use encoded::{EncodedSegment, Stored};
pub(crate) use filter::{IN_MEMORY, KeyFilter};
pub(crate) use joined::Joined;
pub(crate) use name::SegmentName;
pub(crate) use pieces::{Pieces, open_unmapped};
pub(crate) use reader::Segment;
pub(crate) use sorted::Sorted;
pub(crate) use writer::SegmentBuilder;

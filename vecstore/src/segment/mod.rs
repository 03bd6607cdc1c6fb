//! One immutable segment file: writing it, mapping it, finding things in it.

mod check;
mod name;
mod reader;
mod writer;

pub(crate) use check::{check_file, check_mapping, check_open};
pub(crate) use name::SegmentName;
pub(crate) use reader::Segment;
pub(crate) use writer::{EncodedSegment, SegmentBuilder};

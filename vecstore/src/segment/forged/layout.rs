//! Footers and section tables that contradict the file: it is refused when it is opened.

use std::path::Path;

use super::{Memory, put_end};
use crate::base::{DType, Error};
use crate::format::footer::{Footer, Layout};
use crate::format::section;
use crate::segment::{Segment, SegmentBuilder, SegmentName};
use crate::types::Kind;
use crate::vfs::Mapping;

const NAME: SegmentName = SegmentName { first: 1, last: 1, generation: 0 };

/// A valid segment of two entries with payloads.
fn honest() -> Vec<u8> {
    let row: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut builder = SegmentBuilder::new(0);
    builder.begin_run(1, 0, 0);
    for key in [b"a", b"b"] {
        builder.push(key, Kind::Rows, 1, b"payload");
        builder.add_rows(&row, &[]);
    }
    let mut identity = Footer::empty();
    (identity.first, identity.last, identity.dim, identity.dtype, identity.metric) = (1, 1, 2, 1, 1);
    let mut file = Memory(Vec::new());
    builder.finish(identity, DType::F32, b"".to_vec()).unwrap().write(&mut file).unwrap();
    file.0
}

/// Opens the segment after a change of its end, whose checksums are made right.
fn open(change: impl FnOnce(&mut Layout)) -> Result<(), Error> {
    let mut bytes = honest();
    let mut layout = honest_layout();
    change(&mut layout);
    put_end(&mut bytes, layout);
    Segment::from_mapping(Path::new("x"), NAME, Mapping::copied(&bytes).unwrap()).map(drop)
}

fn refused(what: &str, change: impl FnOnce(&mut Footer)) -> String {
    refused_end(what, |layout| change(&mut layout.footer))
}

fn refused_line(what: &str, at: usize, change: impl FnOnce(&mut section::Section)) -> String {
    refused_end(what, |layout| change(&mut layout.sections[at]))
}

fn refused_end(what: &str, change: impl FnOnce(&mut Layout)) -> String {
    let error = open(change).expect_err(what);
    assert!(matches!(error, Error::Damaged { .. }), "{what}: {error}");
    error.to_string()
}

#[test]
fn counts_that_contradict_the_sections_are_refused() {
    open(|_| ()).unwrap();
    let text = refused("a row more", |footer| footer.rows += 1);
    assert!(text.contains("section ROWS: expected 24 bytes, found 16"), "{text}");
    let text = refused("an entry more", |footer| {
        footer.entries += 1;
        footer.kinds[0] += 1;
    });
    assert!(text.contains("section KEND: expected 24 bytes, found 16"), "{text}");
    refused("more rows than there are bytes", |footer| footer.rows = u64::MAX);
    let text = refused("kinds that do not add up", |footer| footer.kinds[1] += 1);
    assert!(text.contains("expected 2 entries, the kinds add up to 3"), "{text}");
    let text = refused("a kill that is not there", |footer| footer.killed[0] += 1);
    assert!(text.contains("the footer counts 1 kills"), "{text}");
}

#[test]
fn misplaced_sections_are_refused() {
    let layout = honest_layout();
    for (at, line) in layout.sections.iter().enumerate() {
        let name = line.name();
        let refused = |what: &str, change: &dyn Fn(&mut section::Section)| {
            refused_line(&format!("{name} {what}"), at, change);
        };
        refused("begins at no multiple of 64", &|line| line.offset += 1);
        refused("overlaps the one before", &|line| line.offset = 0u64.wrapping_sub(64 * u64::from(at == 0)));
        refused("ends beyond the file", &|line| (line.len, line.raw_len) = (1 << 40, 1 << 40));
        refused("ends beyond all numbers", &|line| (line.len, line.raw_len) = (u64::MAX, u64::MAX));
        refused("has two lengths", &|line| line.raw_len += 1);
        refused("has flags", &|line| line.flags = 1);
        let packed = open(|layout| layout.sections[at].codec = 1);
        assert!(matches!(packed, Err(Error::UnsupportedVersion { .. })), "{name}: {packed:?}");
        refused("is aligned to nothing", &|line| line.align_log2 = 5);
        refused("has a name that is no text", &|line| line.tag = *b"HE D");
        refused("begins with another block", &|line| line.first_block += 1);
        // The lengths of rows are optional: a file without NORM is valid.
        if line.tag != section::NORM {
            refused("is called otherwise", &|line| line.tag = *b"xxxx");
        }
        refused("is there twice", &|line| line.tag = layout.sections[(at + 1) % 5].tag);
    }
    refused_end("the last section is left out", |layout| layout.sections.truncate(layout.sections.len() - 1));
}

fn honest_layout() -> Layout {
    Layout::parse(Path::new("x"), &honest()).unwrap()
}

/// A later version may have sections that this one does not know, and gaps between sections.
#[test]
fn unknown_sections_and_gaps_are_ignored() {
    open(|layout| {
        layout.sections.last_mut().unwrap().ignored = [7; 16];
        let norm = layout.sections.iter_mut().find(|line| line.tag == section::NORM).unwrap();
        (norm.tag, norm.codec, norm.raw_len, norm.merge, norm.unit) = (*b"LATE", 9, 77, 200, 0);
    })
    .unwrap();
}

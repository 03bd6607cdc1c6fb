//! Footers and section tables: what the file cannot be is refused when it is opened.

use std::path::Path;

use super::Memory;
use crate::base::{DType, Error};
use crate::format::footer::{FOOTER_LEN, Footer};
use crate::format::section;
use crate::segment::{Segment, SegmentBuilder, SegmentName};
use crate::types::Kind;
use crate::vfs::Mapping;

const NAME: SegmentName = SegmentName { first: 1, last: 1, generation: 0 };

/// A segment of two entries, with payloads and a kill.
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

/// Opens the segment after a change of its footer, which gets the right checksum.
fn open(change: impl FnOnce(&mut Footer)) -> Result<(), Error> {
    let mut bytes = honest();
    let at = bytes.len() - FOOTER_LEN;
    let mut footer: Footer = bytemuck::pod_read_unaligned(&bytes[at..]);
    change(&mut footer);
    footer.seal();
    bytes[at..].copy_from_slice(footer.bytes());
    Segment::from_mapping(Path::new("x"), NAME, Mapping::copied(&bytes).unwrap()).map(drop)
}

fn refused(what: &str, change: impl FnOnce(&mut Footer)) -> String {
    let error = open(change).expect_err(what);
    assert!(matches!(error, Error::Damaged { .. }), "{what}: {error}");
    error.to_string()
}

#[test]
fn counts_that_the_sections_do_not_have_are_refused() {
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
fn sections_that_lie_elsewhere_are_refused() {
    for at in 0..usize::from(open_footer().section_count) {
        let name = open_footer().sections[at].name();
        refused(&format!("{name} begins later"), |footer| footer.sections[at].offset += section::ALIGN);
        refused(&format!("{name} ends beyond the file"), |footer| footer.sections[at].len = 1 << 40);
        refused(&format!("{name} ends beyond all numbers"), |footer| footer.sections[at].len = u64::MAX);
        refused(&format!("{name} has flags"), |footer| footer.sections[at].flags = 1);
        refused(&format!("{name} begins with another block"), |footer| footer.sections[at].first_block += 1);
        refused(&format!("{name} is called otherwise"), |footer| footer.sections[at].tag = *b"XXXX");
        refused(&format!("{name} is there twice"), |footer| {
            footer.sections[at].tag = footer.sections[(at + 1) % 5].tag;
        });
    }
    let text = refused("a name of other letters", |footer| footer.sections[3].tag = [0xFF, b'E', b'N', b'D']);
    assert!(text.contains("is not ASCII"), "{text}");
    refused("the last section is left out", |footer| footer.section_count -= 1);
}

fn open_footer() -> Footer {
    let bytes = honest();
    bytemuck::pod_read_unaligned(&bytes[bytes.len() - FOOTER_LEN..])
}

//! Segments made by an enemy: every checksum is right, and what they say is not.

use std::io;
use std::path::Path;

use super::{Segment, SegmentBuilder, SegmentName};
use crate::format::footer::{FOOTER_LEN, Footer};
use crate::format::records::Kill;
use crate::format::section;
use crate::vfs::{Mapping, RealFs, VfsFile};
use crate::{DType, Error, Fault, Kind, Merging, OnDuplicate, OpenOptions, StoreConfig, load};

struct Memory(Vec<u8>);

impl VfsFile for Memory {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const NAME: SegmentName = SegmentName { first: 1, last: 1, generation: 0 };

/// A segment of two entries, with payloads and a kill.
fn honest() -> Vec<u8> {
    let mut builder = SegmentBuilder::new();
    builder.begin_run(1, 0, 0);
    let row: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for key in [b"a", b"b"] {
        builder.push(key, Kind::Rows, 1, b"payload");
        builder.add_rows(&row, &[]);
    }
    let mut identity = Footer::empty();
    (identity.first, identity.last, identity.dim, identity.dtype, identity.metric) = (1, 1, 2, 1, 1);
    let mut file = Memory(Vec::new());
    builder.finish(identity, DType::F32, b"".to_vec()).write(&mut file).unwrap();
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
    Segment::from_mapping(Path::new("x"), NAME, Mapping::heap(&bytes)).map(drop)
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
    refused("the last section is left out", |footer| footer.section_count -= 1);
}

fn open_footer() -> Footer {
    let bytes = honest();
    bytemuck::pod_read_unaligned(&bytes[bytes.len() - FOOTER_LEN..])
}

/// What `verify` says of a store whose second commit kills the one entry of the first, after a change of that kill; and
/// that a repair makes it whole, with what was deleted still deleted.
fn faults_of_a_kill(change: impl FnOnce(&mut Kill)) -> Vec<Fault> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = OpenOptions::new().merging(Merging::OnDemand).create(&path, StoreConfig::new(2)).unwrap();
    let mut batch = store.batch();
    batch.push("a", &[1.0f32, 2.0]).unwrap();
    store.append(batch, OnDuplicate::Error).unwrap();
    let view = load::load(&RealFs, &path, None).unwrap();
    let mut kill = Kill { killer: 2, commit: 1, entry: 0, row: 0, rows: 1, kind: 0, padding: [0; 3] };
    change(&mut kill);
    let mut builder = SegmentBuilder::new();
    builder.begin_run(2, 0, 0);
    builder.push(b"a", Kind::Tombstone, 0, b"");
    builder.kill(kill);
    let first = view.segments[0].segment.footer();
    let mut identity = Footer::empty();
    identity.store_id = first.store_id;
    identity.epoch = first.epoch;
    identity.link_in = first.link_out;
    identity.link_out = [7; 16];
    (identity.first, identity.last) = (2, 2);
    (identity.dim, identity.dtype, identity.metric) = (first.dim, first.dtype, first.metric);
    let settings = crate::format::settings::encode(&std::collections::BTreeMap::new()).unwrap();
    let encoded = builder.finish(identity, DType::F32, settings);
    let mut file = Memory(Vec::new());
    let name = path.join(load::SEGMENTS).join(encoded.name().to_string());
    encoded.write(&mut file).unwrap();
    std::fs::write(&name, file.0).unwrap();
    let report = crate::verify(&path, |_| {}).unwrap();
    assert_eq!(report.last_commit, 2);
    assert!(report.faults.iter().all(|fault| fault.path == name), "{:?}", report.faults);
    let repaired = crate::repair(&path).unwrap();
    assert_eq!(repaired.was_whole(), report.is_whole());
    if let Some(finding) = repaired.findings.first() {
        assert_eq!((&finding.path, finding.kept), (&name, 1));
        assert_eq!(finding.problem, format!("section KILL: {}", report.faults[0].detail));
    }
    assert!(crate::verify(&path, |_| {}).unwrap().is_whole());
    let store = OpenOptions::new().merging(Merging::OnDemand).open(&path).unwrap();
    assert!(!store.snapshot().contains("a").unwrap());
    if !report.is_whole() {
        store.compact_full().unwrap();
        assert!(!store.snapshot().contains("a").unwrap(), "its kill was found again");
        assert!(crate::verify(&path, |_| {}).unwrap().is_whole());
    }
    report.faults
}

#[test]
fn a_kill_of_what_is_not_there_is_told() {
    assert_eq!(faults_of_a_kill(|_| ()), []);
    assert_eq!(faults_of_a_kill(|kill| kill.entry = 5), [], "a merge may have dropped it");
    type Change = fn(&mut Kill);
    let wrong: [(&str, Change); 6] = [
        ("more rows", |kill| kill.rows = 2),
        ("no rows", |kill| kill.rows = 0),
        ("another kind", |kill| kill.kind = 1),
        ("another row", |kill| kill.row = 1),
        ("a commit to come", |kill| kill.commit = 3),
        ("no commit", |kill| kill.commit = 0),
    ];
    for (what, change) in wrong {
        let faults = faults_of_a_kill(change);
        assert_eq!(faults.len(), 1, "{what}: {faults:?}");
        assert_eq!(faults[0].section, "KILL", "{what}");
        assert!(
            faults[0].detail.contains("does not agree with entry 0 of commit"),
            "{what}: {}",
            faults[0].detail
        );
    }
}

/// A damaged file, of which everything can be read, says that an entry has two rows; a whole file that supersedes it says that
/// it had one.
#[test]
fn what_a_whole_file_contradicts_is_left_out_of_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = OpenOptions::new().merging(Merging::OnDemand).create(&path, StoreConfig::new(2)).unwrap();
    for keys in [&["a", "b"][..], &["a"]] {
        let mut batch = store.batch();
        keys.iter().for_each(|key| batch.push(key, &[keys.len() as f32, 2.0]).unwrap());
        store.append(batch, OnDuplicate::Replace).unwrap();
    }
    let first = *load::load(&RealFs, &path, None).unwrap().segments[0].segment.footer();
    let mut builder = SegmentBuilder::new();
    builder.begin_run(1, 0, 0);
    let row: Vec<u8> = [2.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for (key, rows) in [(b"a", 2), (b"b", 1)] {
        builder.push(key, Kind::Rows, rows, b"");
        (0..rows).for_each(|_| builder.add_rows(&row, &[]));
    }
    let mut identity = Footer::empty();
    identity.store_id = first.store_id;
    identity.epoch = first.epoch;
    (identity.link_in, identity.link_out, identity.nonce) = (first.link_in, first.link_out, first.nonce);
    (identity.first, identity.last) = (1, 1);
    (identity.dim, identity.dtype, identity.metric) = (first.dim, first.dtype, first.metric);
    let settings = crate::format::settings::encode(&std::collections::BTreeMap::new()).unwrap();
    let encoded = builder.finish(identity, DType::F32, settings);
    let name = path.join(load::SEGMENTS).join(encoded.name().to_string());
    let mut file = Memory(Vec::new());
    let sections = encoded.write(&mut file).unwrap().sections;
    // Padding, which says nothing.
    let gap =
        sections.iter().map(|section| (section.offset + section.len) as usize).find(|end| end % 64 != 0);
    file.0[gap.unwrap()] = 1;
    std::fs::write(&name, file.0).unwrap();

    let repaired = crate::repair(&path).unwrap();
    assert_eq!(repaired.findings.len(), 1, "{repaired:#?}");
    assert_eq!((&repaired.findings[0].path, repaired.findings[0].kept), (&name, 1));
    assert!(crate::verify(&path, |_| {}).unwrap().is_whole());
    let store = OpenOptions::new().merging(Merging::OnDemand).open(&path).unwrap();
    for _ in 0..2 {
        let snapshot = store.snapshot();
        assert_eq!(snapshot.get("a").unwrap().unwrap().to_f32().unwrap(), [1.0, 2.0]);
        assert_eq!(snapshot.get("b").unwrap().unwrap().to_f32().unwrap(), [2.0, 2.0]);
        assert_eq!(snapshot.iter().count(), 2);
        store.compact_full().unwrap();
    }
}

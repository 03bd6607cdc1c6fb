//! Forged segments: every checksum is right, and what they say is not.

use std::io;
use std::path::{Path, PathBuf};

use super::{Segment, SegmentBuilder, SegmentName};
use crate::base::{DType, Error};
use crate::care::Fault;
use crate::format::footer::{Footer, Layout};
use crate::format::records::Kill;
use crate::format::section;
use crate::handle::{Merging, OpenOptions, Store};
use crate::state::load;
use crate::types::{Kind, OnDuplicate, StoreConfig};
use crate::vfs::{Mapping, RealFs, VfsFile};

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

/// Puts an end in place of that of the file, with the right checksums. The table may have another length.
fn put_end(bytes: &mut Vec<u8>, mut layout: Layout) {
    bytes.truncate(layout.footer.table_at as usize);
    let table: &[u8] = bytemuck::cast_slice(&layout.sections);
    bytes.extend_from_slice(table);
    layout.footer.section_count = layout.sections.len() as u32;
    layout.footer.table_crc = crc32fast::hash(table);
    layout.footer.file_len = (bytes.len() + layout.footer.bytes().len()) as u64;
    layout.footer.seal();
    bytes.extend_from_slice(layout.footer.bytes());
}

/// Opens the segment after a change of its end, which gets the right checksums.
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
        refused("has a codec", &|line| line.codec = 1);
        refused("is aligned to nothing", &|line| line.align_log2 = 5);
        refused("has a name that is no text", &|line| line.tag = *b"HE D");
        refused("begins with another block", &|line| line.first_block += 1);
        // A reader does not need the lengths of rows, or the second half of what it knows nothing of.
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

/// A later version has sections that this one does not know, and gaps between them.
#[test]
fn unknown_sections_and_gaps_are_read_over() {
    open(|layout| {
        layout.sections.last_mut().unwrap().ignored = [7; 16];
        let norm = layout.sections.iter_mut().find(|line| line.tag == section::NORM).unwrap();
        (norm.tag, norm.codec, norm.raw_len, norm.merge, norm.unit) = (*b"LATE", 9, 77, 200, 0);
    })
    .unwrap();
}

/// A store with a commit for each of `commits`, which put keys with one row each.
fn store_of(path: &Path, commits: &[&[&str]]) -> Store {
    let store = OpenOptions::new().merging(Merging::OnDemand).create(path, StoreConfig::new(2)).unwrap();
    for (number, keys) in commits.iter().enumerate() {
        let mut batch = store.batch();
        keys.iter().for_each(|key| batch.push(key, &[number as f32, 2.0]).unwrap());
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    store
}

fn layout_of(path: &Path, commit: usize) -> Layout {
    load::load(&RealFs, path, None).unwrap().segments[commit - 1].segment.layout().clone()
}

/// Writes a file for a commit of the store, in the place of one that is there or after the last; says what it is called, and
/// its end.
fn forge<'a>(path: &Path, commit: u64, build: impl FnOnce(&mut SegmentBuilder<'a>)) -> (PathBuf, Layout) {
    let view = load::load(&RealFs, path, None).unwrap();
    let last = view.segments.last().unwrap().segment.footer();
    let there = view.segments.get(commit as usize - 1).map(|live| *live.segment.footer());
    let mut identity = Footer::empty();
    (identity.store_id, identity.epoch) = (last.store_id, last.epoch);
    (identity.link_in, identity.link_out) = match there {
        Some(footer) => (footer.link_in, footer.link_out),
        None => (last.link_out, [7; 16]),
    };
    (identity.first, identity.last) = (commit, commit);
    (identity.dim, identity.dtype, identity.metric) = (last.dim, last.dtype, last.metric);
    let mut builder = SegmentBuilder::new(0);
    builder.begin_run(commit, 0, 0);
    build(&mut builder);
    let settings = crate::format::settings::encode(&std::collections::BTreeMap::new()).unwrap();
    let encoded = builder.finish(identity, DType::F32, settings).unwrap();
    let mut file = Memory(Vec::new());
    let name = path.join(load::SEGMENTS).join(encoded.name().to_string());
    let layout = encoded.write(&mut file).unwrap();
    // Not over the old one, which is mapped.
    let _ = std::fs::remove_file(&name);
    std::fs::write(&name, file.0).unwrap();
    (name, layout)
}

fn flip_bit(name: &Path, at: u64) {
    let mut bytes = std::fs::read(name).unwrap();
    bytes[at as usize] ^= 1;
    std::fs::remove_file(name).unwrap();
    std::fs::write(name, bytes).unwrap();
}

fn section_at(layout: &Layout, tag: section::Tag) -> u64 {
    layout.sections.iter().find(|line| line.tag == tag).unwrap().offset
}

const KILL: Kill = Kill { killer: 2, commit: 1, entry: 0, row: 0, rows: 1, kind: 0, padding: [0; 3] };

/// What the store holds after a repair has made it whole, and again after everything was merged.
fn contents(path: &Path) -> Vec<(String, f32)> {
    let read = |store: &Store| -> Vec<(String, f32)> {
        let snapshot = store.snapshot();
        let entry = |entry: crate::read::Entry<'_>| {
            let key = String::from_utf8(entry.key().to_vec()).unwrap();
            assert_eq!(
                snapshot.get(&key).unwrap().unwrap().address(),
                entry.address(),
                "{key} is there twice"
            );
            (key, entry.to_f32().unwrap().first().copied().unwrap_or(-1.0))
        };
        snapshot.iter().map(|found| entry(found.unwrap())).collect()
    };
    assert!(crate::care::verify(path, |_| {}).unwrap().is_whole());
    let store = OpenOptions::new().merging(Merging::OnDemand).open(path).unwrap();
    let before = read(&store);
    store.compact_full().unwrap();
    assert_eq!(read(&store), before);
    assert!(crate::care::verify(path, |_| {}).unwrap().is_whole());
    before
}

/// What `verify` says of a store whose second commit kills the one entry of the first, after a change of that kill; and
/// that a repair makes it whole, with what was deleted still deleted.
fn faults_of_a_kill(change: impl FnOnce(&mut Kill)) -> Vec<Fault> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let mut kill = KILL;
    change(&mut kill);
    let (name, _) = forge(&path, 2, |builder| {
        builder.push(b"a", Kind::Tombstone, 0, b"");
        builder.kill(kill);
    });
    let report = crate::care::verify(&path, |_| {}).unwrap();
    assert_eq!(report.last_commit, 2);
    assert!(report.faults.iter().all(|fault| fault.path == name), "{:?}", report.faults);
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!(repaired.was_whole(), report.is_whole());
    if let Some(finding) = repaired.findings.first() {
        assert_eq!((&finding.path, finding.kept), (&name, 1));
        assert_eq!(finding.problem, format!("section KILL: {}", report.faults[0].detail));
        assert_eq!(contents(&path), [], "its kill was found again");
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
        let detail = &faults[0].detail;
        assert!(detail.contains("does not agree with entry 0 of commit"), "{what}: {detail}");
    }
}

/// A damaged file, of which everything can be read, says that an entry has two rows; a whole file that supersedes it says that
/// it had one. Which is wrong cannot be told: nothing is lost.
#[test]
fn a_damaged_and_a_whole_file_contradict_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a", "b"], &["a"]]);
    let row: Vec<u8> = [5.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let (name, layout) = forge(&path, 1, |builder| {
        for (key, rows) in [(b"a", 2), (b"b", 1)] {
            builder.push(key, Kind::Rows, rows, b"");
            (0..rows).for_each(|_| builder.add_rows(&row, &[]));
        }
    });
    // Padding, which says nothing.
    let mut ends = layout.sections.iter().map(|section| section.offset + section.len);
    flip_bit(&name, ends.find(|end| end % section::ALIGN != 0).unwrap());
    let repaired = crate::care::repair(&path).unwrap();
    let kept: u64 = repaired.findings.iter().map(|finding| finding.kept).sum();
    assert_eq!((repaired.findings.len(), kept, repaired.lost_keys().count()), (2, 3, 0), "{repaired:#?}");
    assert_eq!(contents(&path), [("b".to_owned(), 5.0), ("a".to_owned(), 1.0)]);
}

/// The kills of a damaged file cannot be read, and a whole one kills the same entry, wrongly: when that kill goes, the entry
/// stays superseded.
#[test]
fn a_wrong_kill_is_nothing_to_rely_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"], &["a"]]);
    forge(&path, 3, |builder| {
        builder.push(b"b", Kind::Empty, 0, b"");
        builder.kill(Kill { killer: 3, rows: 2, ..KILL });
    });
    let layout = layout_of(&path, 2);
    let name = path.join(load::SEGMENTS).join("0000000002-0000000002.0.npy");
    flip_bit(&name, section_at(&layout, section::KILL) + 3);
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!(repaired.findings.len(), 2, "{repaired:#?}");
    assert_eq!(contents(&path), [("a".to_owned(), 1.0), ("b".to_owned(), -1.0)]);
}

/// The index of a file is hit, which loses nothing; a whole file kills an entry of it, wrongly.
#[test]
fn a_wrong_kill_takes_nothing_from_a_damaged_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"], &["b"]]);
    forge(&path, 3, |builder| {
        builder.push(b"c", Kind::Empty, 0, b"");
        builder.kill(Kill { killer: 3, commit: 2, rows: 2, ..KILL });
    });
    let layout = layout_of(&path, 2);
    let name = path.join(load::SEGMENTS).join("0000000002-0000000002.0.npy");
    flip_bit(&name, section_at(&layout, section::HASH) + 3);
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!((repaired.findings.len(), repaired.lost_keys().count()), (2, 0), "{repaired:#?}");
    let all = [("a".to_owned(), 0.0), ("b".to_owned(), 1.0), ("c".to_owned(), -1.0)];
    assert_eq!(contents(&path), all);
}

/// Writes a number into a table, and makes all checksums right again.
fn rewrite(name: &Path, layout: &Layout, tag: section::Tag, at: usize, value: u64) {
    let (mut bytes, mut layout) = (std::fs::read(name).unwrap(), layout.clone());
    let sections = &mut layout.sections;
    let number = |tag| sections.iter().position(|line| line.tag == tag).unwrap();
    let (line, table) = (number(tag), number(section::CRCS));
    let range = |line: &section::Section| line.offset as usize..(line.offset + line.len) as usize;
    let place = sections[line].offset as usize + at;
    bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
    // The section has one block.
    let crc = crc32fast::hash(&bytes[range(&sections[line])]);
    let block = range(&sections[table]).start + sections[line].first_block as usize * 4;
    bytes[block..block + 4].copy_from_slice(&crc.to_le_bytes());
    sections[line].crc = crate::format::blocks::section_crc(&[crc]);
    sections[table].crc = crc32fast::hash(&bytes[range(&sections[table])]);
    put_end(&mut bytes, layout);
    std::fs::remove_file(name).unwrap();
    std::fs::write(name, bytes).unwrap();
}

/// Tables whose checksums are right, and which contradict others: `verify` tells it, and merges go around the file.
#[test]
fn ends_and_runs_that_contradict_other_tables_are_told() {
    let row: Vec<u8> = [5.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for (tag, at, value) in [(section::PEND, 0, 100), (section::PEND, 8, 2), (section::RUNS, 40 + 32, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(store_of(&path, &[&["a"]]));
        let (name, layout) = forge(&path, 2, |builder| {
            for (number, rows) in [(0, 1), (5, 2)] {
                if number > 0 {
                    builder.begin_run(2, number, number);
                }
                builder.push(if number == 0 { b"b" } else { b"c" }, Kind::Rows, rows, b"text");
                (0..rows).for_each(|_| builder.add_rows(&row, &[]));
            }
        });
        rewrite(&name, &layout, tag, at, value);
        let report = crate::care::verify(&path, |_| {}).unwrap();
        let told: Vec<&str> = report.faults.iter().map(|fault| &*fault.section).collect();
        assert_eq!(told, [String::from_utf8_lossy(&tag)], "{:?}", report.faults);
        let store = OpenOptions::new().merging(Merging::OnDemand).open(&path).unwrap();
        assert_eq!(store.compact().unwrap().damaged, 1);
    }
}

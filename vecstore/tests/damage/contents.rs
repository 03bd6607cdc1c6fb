//! Damaged attributes and reasons, and attribute types of a later version: damage is reported, and no entry
//! is lost.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::common::layout::{compat, seal_segment, section};
use crate::common::{assert_whole, copy_dir, on_demand};
use crate::sim::tier::sampled;
use vecstore::{Error, Finding, OnDuplicate, Reader, RepairOptions, StoreConfig, Value};

const ONE: &str = "segments/0000000001-0000000001.0.npy";
const TWO: &str = "segments/0000000002-0000000002.0.npy";
const COLUMNS: [&str; 6] = ["bool", "f64", "i64", "text", "texts", "time"];
/// Entries of a segment: enough for several blocks of ATTD.
const ENTRIES: usize = 300;
const BLOCK: usize = 4096;

/// Attributes of entry `number` of a segment; every third entry has none.
fn given(number: usize) -> Option<[Value<'static>; 6]> {
    let text = ["", "some text", "ä"][number % 7 % 3];
    let texts = vec![text; number % 4];
    let number = number as i64;
    let all = [
        Value::Bool(number % 2 == 0),
        Value::F64(number as f64 / 7.0),
        Value::I64(-number),
        Value::Text(text),
        Value::Texts(texts),
        Value::Time(number << 40),
    ];
    (number % 3 != 2).then_some(all)
}

/// A store of two segments, of which the manifest lists the first. Each has entries with rows, and a rejected
/// entry.
fn filled(path: &Path) {
    let live = path.with_file_name("live");
    let store = on_demand().create(&live, StoreConfig::new(1)).unwrap();
    for file in 0..2 {
        let mut batch = store.batch();
        for number in 0..ENTRIES {
            let values = given(number);
            let attributes = COLUMNS.iter().zip(values.iter().flatten());
            let entry = batch.entry(format!("{file}/{number}")).row(&[number as f32]);
            let entry = attributes.fold(entry, |entry, (name, value)| entry.attribute(name, value.clone()));
            entry.push().unwrap();
        }
        batch.entry(format!("{file}/bad")).attribute("i64", 7).push_rejected("why").unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        if file == 0 {
            store.checkpoint().unwrap();
        }
    }
    copy_dir(&live, path);
}

fn change(path: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path.join(name)).unwrap();
    change(&mut bytes);
    fs::write(path.join(name), bytes).unwrap();
}

/// Place of a column's record in ATTR, the directory of a segment's attributes (docs/FORMAT.md).
fn record(file: &Path, column: &str) -> Range<usize> {
    let at = COLUMNS.iter().position(|name| *name == column).unwrap();
    let start = section(file, "ATTR").offset + 8 + at * 64;
    start..start + 64
}

/// Places of the columns' buffers in ATTD.
fn places(file: &Path) -> Vec<Range<usize>> {
    let bytes = fs::read(file).unwrap();
    let begin = |column: &str| {
        let validity = &bytes[record(file, column)][24..32];
        u64::from_le_bytes(validity.try_into().unwrap()) as usize
    };
    let ends = COLUMNS.iter().skip(1).map(|column| begin(column)).chain([section(file, "ATTD").len]);
    COLUMNS.iter().zip(ends).map(|(column, end)| begin(column)..end).collect()
}

/// Counts the values of each column in segment `file`. Asserts that all entries are there, and that no value
/// is wrong.
fn counts(path: &Path, file: usize) -> BTreeMap<&'static str, usize> {
    let store = Reader::open(path).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.iter().count(), 2 * (ENTRIES + 1));
    let mut counts = BTreeMap::new();
    for number in 0..ENTRIES {
        let entry = snapshot.get(format!("{file}/{number}")).unwrap().unwrap();
        assert_eq!(entry.rows::<f32>().unwrap(), [number as f32]);
        let values = given(number);
        for (name, value) in entry.attributes().unwrap() {
            let at = COLUMNS.iter().position(|column| *column == name).unwrap();
            assert_eq!(Some(&value), values.as_ref().map(|values| &values[at]), "{number}: {name}");
            *counts.entry(COLUMNS[at]).or_default() += 1;
        }
    }
    counts
}

fn all_of_them() -> BTreeMap<&'static str, usize> {
    let entries = (0..ENTRIES).filter(|number| given(*number).is_some()).count();
    COLUMNS.into_iter().map(|column| (column, entries)).collect()
}

/// Repairs the store; returns the finding about its only damaged file.
fn repaired(path: &Path) -> Finding {
    let mut report = vecstore::repair(path).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    assert_whole(path);
    report.findings.remove(0)
}

fn noted(finding: &Finding) -> usize {
    let note = finding.notes.iter().find(|note| note.contains("may have lost attributes"));
    note.map_or(0, |note| note.split(' ').next().unwrap().parse().unwrap())
}

/// A flipped byte in ATTR or ATTD: `verify` reports it, and a repair keeps all entries and the values in
/// other blocks.
#[test]
fn a_flipped_byte_costs_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (dir.path().join("whole"), dir.path().join("s"));
    filled(&whole);
    let file = whole.join(TWO);
    let (attr, attd, places) = (section(&file, "ATTR"), section(&file, "ATTD"), places(&file));
    assert!(attd.len > 3 * BLOCK, "{attd:?}");
    let all = all_of_them();
    for (part, byte) in sampled((0..attr.len).map(|at| (&attr, at)), 17, 0).into_iter().chain(sampled(
        (0..attd.len).map(|at| (&attd, at)),
        257,
        0,
    )) {
        let what = format!("{}, byte {byte}", part.name);
        copy_dir(&whole, &path);
        change(&path, TWO, |bytes| bytes[part.offset + byte] ^= 1 << (byte % 8));
        let report = vecstore::verify(&path).unwrap();
        let [fault] = report.faults.as_slice() else { panic!("{what}: {:?}", report.faults) };
        let found = (fault.section.as_str(), fault.block);
        assert_eq!(found, (part.name.as_str(), Some((byte / BLOCK) as u64)), "{what}");

        // ATTD is read without a check: values may be wrong, but must not panic. A damaged ATTR is always an
        // error.
        let store = on_demand().open(&path).unwrap();
        for entry in store.snapshot().iter() {
            let entry = entry.unwrap();
            let read = entry.attributes();
            let is_of_file = entry.key().starts_with(b"1/");
            assert!(part.name == "ATTD" || read.is_err() == is_of_file, "{what}: {read:?}");
            assert!(
                !matches!(&read, Err(error) if !matches!(error, Error::Damaged { .. })),
                "{what}: {read:?}"
            );
        }
        assert_eq!(store.compact().unwrap().damaged, 1, "{what}");
        store.close().unwrap();

        let finding = repaired(&path);
        assert_eq!((finding.kept, finding.lost_keys.len()), (ENTRIES as u64 + 1, 0), "{what}");
        assert_eq!(counts(&path, 0), all, "{what}");
        let (kept, lost) = (counts(&path, 1), noted(&finding));
        let made = compat(&fs::read(finding.replaced_by.unwrap()).unwrap());
        assert_eq!(made & 1 == 1, lost > 0, "{what}: flags {made:#x}");
        if part.name == "ATTR" {
            assert!(kept.is_empty() && lost == ENTRIES + 1, "{what}: {kept:?}, {lost}");
        } else {
            let block = byte / BLOCK * BLOCK..(byte / BLOCK + 1) * BLOCK;
            let mut missing = 0;
            for (column, place) in COLUMNS.iter().zip(&places) {
                let count = kept.get(column).copied().unwrap_or_default();
                let is_hit = place.start < block.end && block.start < place.end;
                assert!(is_hit || count == all[column], "{what}: {column} has {count}");
                missing = missing.max(all[column] - count);
            }
            assert!(lost > 0 && missing <= lost && lost <= ENTRIES + 1, "{what}: {missing} {lost}");
        }
        fs::remove_dir_all(&path).unwrap();
    }
}

/// An attribute type of a later version: other attributes are read, merges leave the segment alone and say
/// why, and nothing is lost.
#[test]
fn a_type_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path);
    let kind = record(&path.join(TWO), "text").start + 8;
    change(&path, TWO, |bytes| {
        bytes[kind] = 7;
        seal_segment(bytes);
    });
    assert_whole(&path);
    let mut expected = all_of_them();
    assert_eq!(counts(&path, 0), expected);
    expected.remove("text");
    assert_eq!(counts(&path, 1), expected);
    let store = on_demand().open(&path).unwrap();
    assert_eq!(store.snapshot().get("1/0").unwrap().unwrap().attribute("text").unwrap(), None);
    let file = fs::read(path.join(TWO)).unwrap();
    for (name, value, error) in [
        (
            "text",
            Value::Text("x"),
            "is text in this batch, and of a type that this version does not know in the store",
        ),
        ("time", Value::Text("x"), "is text in this batch, and time in the store"),
    ] {
        let mut batch = store.batch();
        batch.entry("new").attribute(name, value).push_empty().unwrap();
        let refused = store.append(&mut batch, OnDuplicate::Error).unwrap_err().to_string();
        assert!(refused.contains(error), "{refused}");
    }
    for number in 0..3 {
        let mut batch = store.batch();
        batch.entry(format!("new {number}")).attribute("time", Value::Time(1)).push_empty().unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    let done = store.compact().unwrap();
    assert_eq!((done.merges, done.damaged, done.segments_after), (1, 0, 3), "those after it became one");
    let error = store.compact_full().unwrap_err();
    assert!(matches!(error, Error::UnsupportedVersion { .. }), "{error}");
    assert!(error.to_string().contains("attribute \"text\" of a type"), "{error}");
    store.close().unwrap();
    assert!(fs::read(path.join(TWO)).unwrap() == file, "it is as it was");
    assert!(vecstore::repair(&path).unwrap().was_whole());
}

/// The segments are intact, but the second gives an attribute another type than the first.
#[test]
fn two_types_of_one_attribute_are_reported_and_merged_around() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path);
    let kind = record(&path.join(TWO), "time").start + 8;
    change(&path, TWO, |bytes| {
        bytes[kind] = 2;
        seal_segment(bytes);
    });
    let report = vecstore::verify(&path).unwrap();
    let [fault] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    assert_eq!((&fault.path, fault.section.as_str()), (&path.join(TWO), "ATTR"));
    assert_eq!(fault.detail, "attribute \"time\" is i64, and time in a file before it");
    let store = on_demand().open(&path).unwrap();
    let done = store.compact().unwrap();
    assert_eq!((done.merges, done.damaged, done.segments_after), (0, 1, 2));
    assert!(matches!(store.compact_full(), Err(Error::Damaged { .. })));
    store.close().unwrap();

    let finding = repaired(&path);
    assert_eq!(finding.problem, "section ATTR: attribute \"time\" is i64, and time in a file before it");
    let mut expected = all_of_them();
    assert_eq!(counts(&path, 0), expected);
    assert_eq!((finding.kept, noted(&finding)), (ENTRIES as u64 + 1, expected["time"]));
    expected.remove("time");
    assert_eq!(counts(&path, 1), expected);
    on_demand().open(&path).unwrap().compact_full().unwrap();
    assert_whole(&path);
}

/// Invalid values and an invalid reason under correct checksums.
#[test]
fn invalid_contents_under_correct_checksums_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    filled(&whole);
    let file = whole.join(ONE);
    let (attd, payl, places) = (section(&file, "ATTD"), section(&file, "PAYL"), places(&file));
    // The last entry is rejected: its payload begins with the length of the reason and the reason, "why".
    let cases: [(&str, usize, u8, usize, usize); 6] = [
        ("ATTD", attd.offset + places[3].start + 64, 0xFF, 1, 0),
        ("ATTD", attd.offset + places[2].start + 64 + 2 * 8, 1, 0, 0),
        ("ATTD", attd.offset + places[0].end - 1, 0x80, 0, 0),
        ("PAYL", payl.offset, 200, 0, 1),
        ("PAYL", payl.offset + 1, 1, 0, 1),
        ("PAYL", payl.offset + 4, 0xFF, 0, 1),
    ];
    for (number, (name, at, byte, lost_values, lost_entries)) in cases.into_iter().enumerate() {
        let path: PathBuf = dir.path().join(number.to_string());
        copy_dir(&whole, &path);
        fs::remove_file(path.join("MANIFEST")).unwrap();
        change(&path, ONE, |bytes| {
            assert_ne!(bytes[at], byte);
            bytes[at] = byte;
            seal_segment(bytes);
        });
        let report = vecstore::repair_with(&path, RepairOptions::new().dry_run(true)).unwrap();
        let mut findings = report.findings.iter().filter(|finding| finding.path.ends_with(ONE));
        let problem = &findings.next().unwrap_or_else(|| panic!("case {number}: {report:#?}")).problem;
        assert!(problem.starts_with(&format!("section {name}: ")), "case {number}: {problem}");
        let report = vecstore::repair(&path).unwrap();
        let finding = report.findings.iter().find(|finding| finding.path.ends_with(ONE)).unwrap();
        let lost: Vec<String> =
            report.lost_keys().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect();
        assert_eq!((noted(finding), lost.len()), (lost_values, lost_entries), "case {number}: {lost:?}");
        assert!(lost.iter().all(|key| key == "0/bad"), "case {number}: {lost:?}");
        assert_whole(&path);
        if lost_entries == 0 {
            let kept: usize = counts(&path, 0).values().sum();
            assert_eq!(kept + lost_values, all_of_them().values().sum::<usize>(), "case {number}");
        }
    }
}

//! Tables of ends and of runs that contradict other tables.

use super::kills::KILL;
use super::{forge, mend, push, rewrite, store_of, with};
use crate::format::records::Run;
use crate::format::section::{self, Tag};
use crate::handle::{MergePolicy, OpenOptions};
use crate::types::Kind;

/// Tables with right checksums that contradict others: `verify` reports them, merges go around the file, and
/// a repair keeps the entries whose payloads can be determined, or all entries if the table of rows says
/// where a run begins.
#[test]
fn ends_and_runs_that_contradict_other_tables_are_reported() {
    const ROW: [u8; 8] = [0, 0, 0xA0, 0x40, 0, 0, 0, 0x40];
    let cases: [(Tag, usize, u64, &[&str]); 3] = [
        (section::PEND, 0, 100, &["b", "c"]),
        (section::PEND, 8, 2, &["c"]),
        (section::RUNS, 40 + 32, 2, &[]),
    ];
    for (tag, at, value, lost) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(store_of(&path, &[&["a"]]));
        let name = forge(&path, 2, |builder| {
            for (key, rows) in [(b"b", 1), (b"c", 2), (b"d", 1)] {
                if key == b"c" {
                    builder.begin_run(2, 5, 5);
                }
                builder.push(key, Kind::Rows, rows, b"text");
                (0..rows).for_each(|_| builder.add_rows(&ROW, &[]));
            }
        });
        rewrite(&name, tag, at, &value.to_le_bytes());
        let store = OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(&path).unwrap();
        assert_eq!(store.compact().unwrap().damaged, 1);
        store.close().unwrap();
        let (faults, repaired, contents) = mend(&path);
        let told: Vec<&str> = faults.iter().map(|fault| &*fault.section).collect();
        assert_eq!(told, [String::from_utf8_lossy(&tag)], "{faults:?}");
        let lost_keys: Vec<_> = repaired.lost_keys().map(String::from_utf8_lossy).collect();
        assert_eq!(lost_keys, lost, "{repaired:#?}");
        assert_eq!(repaired.findings[0].readdressed, 0);
        let mut all = with(&[("a", 0.0), ("b", 5.0), ("c", 5.0), ("d", 5.0)]);
        all.retain(|(key, _)| !lost.contains(&&**key));
        assert_eq!(contents, all);
    }
}

/// If two runs name the same entries or rows, an address is ambiguous: a repair gives the entries new
/// addresses.
#[test]
fn overlapping_runs_are_reported() {
    // The first run has entries and rows 0 to 2, the second begins with 7. `at` is the place in RUNS of the
    // second run's entry or row.
    for (at, value, told) in [(48, 2u64, true), (48, 3, false), (56, 2, true), (56, 3, false)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _store = store_of(&path, &[&["a"]]);
        let name = forge(&path, 2, |builder| {
            [b"b", b"c", b"d"].iter().for_each(|key| push(builder, *key));
            builder.begin_run(2, 7, 7);
            push(builder, b"e");
        });
        rewrite(&name, section::RUNS, at, &value.to_le_bytes());
        let faults = crate::care::verify(&path).unwrap().faults;
        assert_eq!(!faults.is_empty(), told, "byte {at}, {value}: {faults:?}");
        if told {
            let (faults, repaired, contents) = mend(&path);
            assert!(faults[0].detail.contains("run 1 names entries or rows"), "{}", faults[0].detail);
            assert_eq!((repaired.findings[0].readdressed, repaired.lost_keys().count()), (4, 0));
            assert_eq!(contents, with(&[("a", 0.0), ("b", 5.0), ("c", 5.0), ("d", 5.0), ("e", 5.0)]));
        }
    }
}

/// A run with larger numbers than any batch has is a fault. Large but possible numbers are none: entries that
/// a repair adds are numbered after them.
#[test]
fn runs_with_impossible_numbers_are_reported() {
    for (number, told) in [(Run::MOST / 2, false), (Run::MOST, false), (Run::MOST + 1, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _store = store_of(&path, &[&["a", "z"]]);
        let name = forge(&path, 2, |builder| {
            push(builder, b"a");
            builder.push(b"c", Kind::Empty, 0, b"");
            builder.kill(KILL);
        });
        rewrite(&name, section::RUNS, 8, &number.to_le_bytes());
        let faults = crate::care::verify(&path).unwrap().faults;
        assert_eq!(!faults.is_empty(), told, "{number}: {faults:?}");
        // The end of the first key no longer fits its hash; "a" is still known from the entry that it killed.
        rewrite(&name, section::KEND, 0, &0u64.to_le_bytes());
        let (_, repaired, contents) = mend(&path);
        assert_eq!(repaired.lost_keys().collect::<Vec<_>>(), [b"a"], "{number}: {repaired:#?}");
        assert_eq!(contents, with(&[("z", 0.0), ("ac", -1.0)]));
    }
}

/// Settings of a segment that are out of order or repeated are replaced by those of the manifest.
#[test]
fn unsorted_settings_are_reported() {
    for names in [[b'b', b'a'], [b'a', b'a']] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _store = store_of(&path, &[&["a"]]);
        let text = |name: u8| [1, 0, 0, 0, name, 0, 0, 0, 0];
        let bytes = [&[2, 0, 0, 0][..], &text(names[0]), &text(names[1])].concat();
        super::forge_as(&path, 2..=2, |_, settings| *settings = bytes, |builder| push(builder, b"b"));
        let (faults, repaired, contents) = mend(&path);
        assert_eq!((faults.len(), &*faults[0].section, repaired.findings[0].kept), (1, "SETT", 1));
        assert_eq!(contents, with(&[("a", 0.0), ("b", 5.0)]));
    }
}

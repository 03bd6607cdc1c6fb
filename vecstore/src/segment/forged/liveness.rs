//! Kills that agree with the entries that they name, but name the wrong ones: of each key only the newest
//! entry counts.

use std::path::{Path, PathBuf};

use super::kills::KILL;
use super::{contents, flip_bit, forge, forge_as, mend, push, section_at, store_of, with};
use crate::format::key_hash;
use crate::format::records::Kill;
use crate::format::section;
use crate::handle::{MergePolicy, OpenOptions, ReadOptions, Store};
use crate::segment::SegmentBuilder;
use crate::state::load::SEGMENTS;
use crate::types::Kind;

/// A kill of the second entry of the first commit.
const SECOND: Kill = Kill { entry: 1, row: 1, ..KILL };

/// A forged second commit of a store whose first commit has "a" and "b", 0.0 each, and the expected results.
struct Case {
    what: &'static str,
    /// Builds the second commit.
    forged: fn(&mut SegmentBuilder<'_>),
    /// Expected faults of the second commit: a part of the detail, and the key.
    faults: &'static [(&'static str, &'static str)],
    /// Expected contents after the repair.
    holds: &'static [(&'static str, f32)],
}

const LACKS: &str = "is live beside a newer one of its key";
const EXCESS: &str = "is superseded, and no newer one of its key is there";

const CASES: [Case; 8] = [
    Case {
        what: "a kill is missing",
        forged: |builder| push(builder, b"a"),
        faults: &[(LACKS, "a")],
        holds: &[("b", 0.0), ("a", 5.0)],
    },
    Case {
        what: "a kill names another entry",
        forged: |builder| {
            push(builder, b"a");
            builder.kill(SECOND);
        },
        faults: &[(LACKS, "a"), (EXCESS, "b")],
        holds: &[("b", 0.0), ("a", 5.0)],
    },
    Case {
        what: "a kill names an entry that is not there",
        forged: |builder| {
            push(builder, b"a");
            builder.kill(Kill { entry: 9, ..KILL });
        },
        faults: &[(LACKS, "a")],
        holds: &[("b", 0.0), ("a", 5.0)],
    },
    Case {
        what: "a kill names the newest entry of a key",
        forged: |builder| {
            push(builder, b"c");
            builder.kill(KILL);
        },
        faults: &[(EXCESS, "a")],
        holds: &[("a", 0.0), ("b", 0.0), ("c", 5.0)],
    },
    Case {
        what: "a commit kills its own entry",
        forged: |builder| {
            push(builder, b"c");
            builder.kill(Kill { commit: 2, ..KILL });
        },
        faults: &[(EXCESS, "c")],
        holds: &[("a", 0.0), ("b", 0.0), ("c", 5.0)],
    },
    Case {
        what: "a tombstone kills nothing",
        forged: |builder| builder.push(b"a", Kind::Tombstone, 0, b""),
        faults: &[(LACKS, "a")],
        holds: &[("b", 0.0)],
    },
    Case {
        what: "a tombstone is killed",
        forged: |builder| {
            builder.push(b"a", Kind::Tombstone, 0, b"");
            builder.kill(KILL);
            builder.kill(Kill { commit: 2, rows: 0, kind: 3, ..KILL });
        },
        faults: &[(EXCESS, "a")],
        holds: &[("b", 0.0)],
    },
    Case {
        what: "a key is twice in one commit",
        forged: |builder| {
            push(builder, b"c");
            builder.push(b"c", Kind::Empty, 0, b"");
        },
        faults: &[(LACKS, "c")],
        holds: &[("a", 0.0), ("b", 0.0), ("c", -1.0)],
    },
];

fn forged(path: &Path, case: &Case) -> PathBuf {
    drop(store_of(path, &[&["a", "b"]]));
    forge(path, 2, case.forged)
}

fn open(path: &Path) -> Store {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(path).unwrap()
}

/// Runs each case. Some cases run again in a store whose bitmaps contain the wrong kills, in one with a
/// version that lists such a bitmap, in one without a manifest, and in one with both files damaged. Finally
/// deletes all remaining keys.
#[test]
fn the_newest_entry_of_a_key_counts_and_no_other() {
    for case in &CASES {
        let some = case.faults.len() > 1 || case.holds.len() == 1;
        for also in
            if some { &["nothing", "listed", "pinned", "manifest", "damage"][..] } else { &["nothing"] }
        {
            let what = format!("{}, also {also}", case.what);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let name = forged(&path, case);
            match *also {
                "listed" => open(&path).close().unwrap(),
                "pinned" => drop(open(&path).create_version("pinned").unwrap()),
                "manifest" => std::fs::remove_file(path.join("MANIFEST")).unwrap(),
                "damage" => {
                    let first = path.join(SEGMENTS).join("0000000001-0000000001.0.npy");
                    for file in [&first, &name] {
                        flip_bit(file, section_at(file, section::HASH));
                    }
                }
                _ => {}
            }
            let held = if *also == "manifest" {
                let repaired = crate::care::repair(&path).unwrap();
                assert!(
                    repaired.findings.iter().any(|finding| finding.path == name),
                    "{what}: {repaired:#?}"
                );
                contents(&path)
            } else {
                let (faults, repaired, held) = mend(&path);
                assert_eq!(repaired.lost_keys().count(), 0, "{what}: {repaired:#?}");
                assert!(
                    repaired.findings.iter().any(|finding| finding.path == name),
                    "{what}: {repaired:#?}"
                );
                if *also != "damage" {
                    let told: Vec<_> = faults.iter().map(|fault| (&*fault.section, &fault.path)).collect();
                    assert_eq!(told, vec![("KILL", &name); case.faults.len()], "{what}");
                    for (fault, (detail, key)) in faults.iter().zip(case.faults) {
                        assert!(fault.detail.contains(detail), "{what}: {fault}");
                        assert_eq!(fault.keys, [key.as_bytes()], "{what}");
                    }
                    let findings = 1 + usize::from(*also == "pinned");
                    assert_eq!(repaired.findings.len(), findings, "{what}: {repaired:#?}");
                }
                held
            };
            assert_eq!(held, with(case.holds), "{what}");
            if *also == "pinned" {
                let pinned = ReadOptions::new().at_version("pinned").open(&path).unwrap().snapshot();
                assert_eq!(pinned.iter().count(), case.holds.len(), "{what}");
            }
            let store = open(&path);
            let mut batch = store.batch();
            case.holds.iter().for_each(|(key, _)| batch.delete(key).unwrap());
            store.append(&mut batch, crate::types::OnDuplicate::Error).unwrap();
            assert_eq!(store.snapshot().iter().count(), 0, "{what}");
        }
    }
}

/// A file of several commits lacks the kills of its own entries: the last of a key's three entries counts.
#[test]
fn kills_that_are_missing_within_a_file_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let name = forge_as(
        &path,
        2..=4,
        |_, _| (),
        |builder| {
            push(builder, b"a");
            push(builder, b"b");
            builder.begin_run(3, 0, 0);
            builder.push(b"b", Kind::Empty, 0, b"");
            builder.begin_run(4, 0, 0);
            push(builder, b"b");
            builder.kill(KILL);
        },
    );
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &faults[0].path), (1, &name));
    assert_eq!(faults[0].keys, [b"b", b"b"]);
    assert!(faults[0].detail.ends_with("in commit 3 (and 1 more)"), "{}", faults[0].detail);
    assert_eq!(repaired.findings[0].kept, 4);
    assert_eq!(contents, with(&[("a", 5.0), ("b", 5.0)]));
}

/// Two keys with the same hash.
fn of_equal_hash() -> [[u8; 16]; 2] {
    // The steps of XXH64 for eight bytes, and their inverse.
    const PRIMES: [u64; 4] =
        [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x85EB_CA77_C2B2_AE63, 0x27D4_EB2F_1656_67C5];
    let inverse =
        |prime: u64| (0..6).fold(prime, |x, _| x.wrapping_mul(2u64.wrapping_sub(prime.wrapping_mul(x))));
    let round = |lane: u64| lane.wrapping_mul(PRIMES[1]).rotate_left(31).wrapping_mul(PRIMES[0]);
    let unround =
        |lane: u64| lane.wrapping_mul(inverse(PRIMES[0])).rotate_right(31).wrapping_mul(inverse(PRIMES[1]));
    let start = PRIMES[3].wrapping_add(16);
    let step =
        |lane: u64| (start ^ round(lane)).rotate_left(27).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[2]);
    let [one, other] = [*b"a first ", *b"another "].map(u64::from_le_bytes);
    let second = u64::from_le_bytes(*b"lane of8");
    let fitting = unround(round(second) ^ step(one) ^ step(other));
    let key = |first: u64, second: u64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&first.to_le_bytes());
        key[8..].copy_from_slice(&second.to_le_bytes());
        key
    };
    [key(one, second), key(other, fitting)]
}

/// Keys with equal hashes are told apart.
#[test]
fn keys_with_equal_hashes_are_told_apart() {
    let [one, other] = of_equal_hash();
    assert!(one != other && key_hash(&one) == key_hash(&other));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = store_of(&path, &[]);
    for key in [one, other, one] {
        let mut batch = store.batch();
        batch.push(key, &[1.0f32, 2.0]).unwrap();
        store.append(&mut batch, crate::types::OnDuplicate::Replace).unwrap();
    }
    assert!(crate::care::verify(&path).unwrap().is_whole());
    // The kill of commit 3 names the other key's entry instead.
    forge(&path, 3, |builder| {
        push(builder, &one);
        builder.kill(Kill { killer: 3, commit: 2, ..KILL });
    });
    let faults = crate::care::verify(&path).unwrap().faults;
    let keys: Vec<_> = faults.iter().flat_map(|fault| &fault.keys).collect();
    assert_eq!(keys, [&one[..], &other]);
    crate::care::repair(&path).unwrap();
    assert!(crate::care::verify(&path).unwrap().is_whole());
    assert_eq!(open(&path).snapshot().iter().count(), 2);
}

/// A commit replaces a key of the commit before, the next deletes it, and the merge of the middle commits
/// leaves out superseded entries. When the deletion is lost, the first entry must not come back.
#[test]
fn a_lost_deletion_brings_no_older_entry_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(store_of(&path, &[&["a"]]));
    forge_as(
        &path,
        2..=3,
        |_, _| (),
        |builder| {
            // Commit 2 replaced "a": only its kill is left.
            builder.kill(KILL);
            builder.push(b"b", Kind::Empty, 0, b"");
        },
    );
    let name = forge(&path, 4, |builder| {
        builder.push(b"a", Kind::Tombstone, 0, b"");
        builder.kill(Kill { killer: 4, commit: 2, entry: 7, ..KILL });
    });
    open(&path).close().unwrap();
    assert!(crate::care::verify(&path).unwrap().is_whole());
    std::fs::remove_file(name).unwrap();
    let (_, repaired, contents) = mend(&path);
    assert_eq!(repaired.lost_keys().collect::<Vec<_>>(), [b"a"], "{repaired:#?}");
    assert_eq!(contents, with(&[("b", -1.0)]));
}

/// More files than are open at a time, and more keys than are read at once.
#[test]
fn many_files_and_many_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = store_of(&path, &[]);
    let mut batch = store.batch();
    for number in 0..20_000 {
        batch.push_empty(format!("{number}")).unwrap();
    }
    store.append(&mut batch, crate::types::OnDuplicate::Replace).unwrap();
    for number in 2..300 {
        forge(&path, number, |builder| push(builder, format!("{number} and more").as_bytes()));
    }
    assert!(crate::care::verify(&path).unwrap().is_whole());
    let name = forge(&path, 300, |builder| {
        push(builder, b"17000");
        push(builder, b"2 and more");
    });
    let faults = crate::care::verify(&path).unwrap().faults;
    let keys: std::collections::BTreeSet<&[u8]> =
        faults.iter().flat_map(|fault| &fault.keys).map(|key| &**key).collect();
    assert_eq!((faults.len(), &faults[0].path), (1, &name));
    assert_eq!(keys, [&b"17000"[..], b"2 and more"].into());
}

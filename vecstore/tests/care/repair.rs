//! Repairs: after any damage to a file, the store is whole, every undamaged entry is at its old address, lost
//! keys are named, and no file was deleted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::bench::{Bench, Contents, Expect, build, contents, file, flip, quiet, sections};
use crate::common::copy_dir;
use vecstore::{
    Error, MergePolicy, OnDuplicate, OpenOptions, Reader, RepairOptions, Store, StoreConfig, Value,
};

const MERGED: &str = "0000000001-0000000003.0.npy";
const FOUR: &str = "0000000004-0000000004.0.npy";
const FIVE: &str = "0000000005-0000000005.0.npy";
const SIX: &str = "0000000006-0000000006.0.npy";

/// Damage to a merged segment whose inputs still exist: the inputs take its place, and no entry is lost.
#[test]
fn inputs_take_the_place_of_a_damaged_merge() {
    let mut bench = Bench::new();
    let whole = file(&bench.dir.path().join("whole"), MERGED);
    let len = fs::metadata(&whole).unwrap().len() as usize;
    let places: Vec<usize> =
        sections(&whole).iter().map(|(_, offset, _)| *offset).chain([len - 1, len - 500]).collect();
    for at in places {
        let report = bench.case(
            &format!("merged, byte {at}"),
            |path| flip(&file(path, MERGED), at),
            &Expect::nothing(),
        );
        let footer = at >= len - 1024;
        assert!(footer || report.segments == 6, "{report:#?}");
    }
    for keep in [0, 1, 5000, len - 1024, len - 1] {
        let cut = |path: &Path| fs::write(file(path, MERGED), &fs::read(&whole).unwrap()[..keep]).unwrap();
        assert_eq!(bench.case(&format!("merged, cut to {keep}"), cut, &Expect::nothing()).segments, 6);
    }
    bench.case("merged, gone", |path| fs::remove_file(file(path, MERGED)).unwrap(), &Expect::nothing());
    println!("repair: {} damages of a merged segment with inputs", bench.tried);
}

/// A flipped byte in each section of each segment without inputs: exactly the entries that it hits are lost.
#[test]
fn exactly_the_damaged_entries_are_lost() {
    let mut bench = Bench::new();
    let whole = bench.dir.path().join("whole");
    // "a2" in commit 2 was replaced in commit 6, and "b1" in commit 4.
    let live = |name: &str| -> Vec<&'static str> {
        match name {
            FOUR => vec!["two rows", "b1"],
            FIVE => vec!["d5"],
            _ => vec!["e6", "a2"],
        }
    };
    for name in [FOUR, FIVE, SIX] {
        for (section, offset, len) in sections(&file(&whole, name)) {
            if len == 0 {
                continue;
            }
            let keys = live(name);
            let expect = match section.as_str() {
                // All entries have rows, in the same block.
                "ROWS" | "SCAL" => Expect::keys(&keys),
                // The payload of "b1" lies in the block; the other payload is empty, and lies in no block.
                "PAYL" => Expect::keys(&["b1"]),
                "PEND" => Expect::keys(&keys),
                // A replaced entry in an older segment still has the key.
                "KEYS" => match name {
                    FOUR => Expect {
                        lost: Expect::keys(&["b1"]).lost,
                        unnamed: Expect::keys(&["two rows"]).lost,
                        unknown: false,
                    },
                    FIVE => Expect::unnamed(&["d5"]),
                    _ => Expect {
                        lost: Expect::keys(&["a2"]).lost,
                        unnamed: Expect::keys(&["e6"]).lost,
                        unknown: false,
                    },
                },
                // The row counts cannot be told from the total if one entry has two rows.
                "REND" if name == FOUR => Expect::keys(&keys),
                // All other sections follow from the rest.
                _ => Expect::nothing(),
            };
            let middle = offset + len / 2;
            let what = format!("{name}, {section}");
            let report = bench.case(&what, |path| flip(&file(path, name), middle), &expect);
            assert_eq!(report.findings[0].path, file(&bench.dir.path().join("s"), name), "{what}");
            let moved = report.findings[0].moved_to.as_ref().unwrap();
            assert!(moved.ends_with(Path::new("quarantine").join(name)), "{what}");
        }
        // A single wrong byte of a footer can be corrected.
        let len = fs::metadata(file(&whole, name)).unwrap().len() as usize;
        for at in (len - 1024..len).step_by(97).chain([len - 1]) {
            bench.case(&format!("{name}, byte {at}"), |path| flip(&file(path, name), at), &Expect::nothing());
        }
        for more in [1, 64, 5000] {
            let extend = |path: &Path| {
                let mut bytes = fs::read(file(path, name)).unwrap();
                bytes.resize(bytes.len() + more, 7);
                fs::write(file(path, name), bytes).unwrap();
            };
            bench.case(&format!("{name}, {more} bytes more"), extend, &Expect::nothing());
        }
    }
    println!("repair: {} damages of single segments", bench.tried);
}

/// Segments that are gone, cut, or not regular files: a hole keeps the chain, and entries that the lost
/// segment replaced do not come back.
#[test]
fn a_missing_segment_leaves_a_hole() {
    let mut bench = Bench::new();
    for name in [FOUR, FIVE, SIX] {
        // Bitmaps tell which entries the lost segment superseded, but not which other entries it had.
        let (lost, unnamed): (&[&str], &[&str]) = match name {
            FOUR => (&["b1", "c1"], &["two rows"]),
            FIVE => (&["none2"], &["d5"]),
            _ => (&["a2"], &["e6"]),
        };
        let before = bench.before.clone();
        let expect =
            Expect { lost: Expect::keys(lost).lost, unnamed: Expect::keys(unnamed).lost, unknown: true };
        // Keys that the segment deleted are reported as lost too: a deletion cannot be told from a
        // replacement.
        for key in &expect.lost {
            bench.before.entry(key.clone()).or_default();
        }
        let gone = |path: &Path| fs::remove_file(file(path, name)).unwrap();
        bench.case(&format!("{name} gone"), gone, &expect);
        let directory = |path: &Path| {
            gone(path);
            fs::create_dir(file(path, name)).unwrap();
            fs::write(file(path, name).join("inside"), b"x").unwrap();
        };
        bench.case(&format!("{name} a directory"), directory, &expect);
        let fifo = |path: &Path| {
            gone(path);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, file(path, name), mode).unwrap();
        };
        bench.case(&format!("{name} a FIFO"), fifo, &expect);
        let link = |path: &Path| {
            gone(path);
            std::os::unix::fs::symlink("/etc/hostname", file(path, name)).unwrap();
        };
        bench.case(&format!("{name} a link"), link, &expect);
        let whole = fs::read(file(&bench.dir.path().join("whole"), name)).unwrap();
        for keep in [0, 100, 4096, whole.len() - 1024, whole.len() - 1] {
            let cut = |path: &Path| fs::write(file(path, name), &whole[..keep]).unwrap();
            bench.case(&format!("{name} cut to {keep}"), cut, &expect);
        }
        bench.before = before;
    }
    println!("repair: {} files gone", bench.tried);
}

/// Misplaced files: swapped segments, segments of another store, a segment twice, an old manifest, no
/// manifest.
#[test]
fn misplaced_files_are_set_aside_and_swapped_segments_return() {
    let mut bench = Bench::new();
    let other = bench.dir.path().join("other");
    build(&other);
    let nothing = Expect::nothing();
    let swap = |path: &Path| {
        fs::rename(file(path, FOUR), path.join("aside")).unwrap();
        fs::rename(file(path, FIVE), file(path, FOUR)).unwrap();
        fs::rename(path.join("aside"), file(path, FIVE)).unwrap();
    };
    let report = bench.case("two swapped", swap, &nothing);
    assert_eq!(report.findings.iter().filter(|finding| finding.moved_to.is_some()).count(), 2, "{report:#?}");
    bench.case(
        "two swapped, the manifest gone",
        |path| {
            swap(path);
            fs::remove_file(path.join("MANIFEST")).unwrap();
        },
        &nothing,
    );
    let next = "0000000007-0000000007.0.npy";
    let twice = |path: &Path| fs::copy(file(path, SIX), file(path, next)).map(|_| ()).unwrap();
    assert_eq!(bench.case("a segment twice", twice, &nothing).last_commit, 6);
    let foreign = |path: &Path| fs::copy(file(&other, SIX), file(path, next)).map(|_| ()).unwrap();
    assert_eq!(bench.case("another store's, next", foreign, &nothing).last_commit, 6);
    let instead = |path: &Path| {
        fs::rename(file(path, FIVE), path.join("quarantined by hand")).unwrap();
        fs::copy(file(&other, FIVE), file(path, FIVE)).unwrap();
    };
    let before = bench.before.clone();
    bench.before.entry(b"none2".to_vec()).or_default();
    let expect =
        Expect { lost: Expect::keys(&["none2"]).lost, unnamed: Expect::keys(&["d5"]).lost, unknown: true };
    bench.case("another store's, instead", instead, &expect);
    bench.before = before;

    bench.case("the manifest gone", |path| fs::remove_file(path.join("MANIFEST")).unwrap(), &nothing);
    bench.case("the manifest flipped", |path| flip(&path.join("MANIFEST"), 100), &nothing);
    let directory = |path: &Path| {
        fs::remove_file(path.join("MANIFEST")).unwrap();
        fs::create_dir(path.join("MANIFEST")).unwrap();
    };
    bench.case("the manifest a directory", directory, &nothing);
    let both = |path: &Path| {
        fs::remove_file(path.join("MANIFEST")).unwrap();
        let rows = sections(&file(path, SIX)).into_iter().find(|(name, ..)| name == "ROWS").unwrap();
        flip(&file(path, SIX), rows.1);
    };
    bench.case("the manifest gone and the last segment hit", both, &Expect::keys(&["e6", "a2"]));
    let old =
        |path: &Path| fs::copy(path.join("versions/pinned"), path.join("MANIFEST")).map(|_| ()).unwrap();
    bench.case("an old manifest", old, &nothing);
    let old_and_gone = |path: &Path| {
        old(path);
        fs::remove_file(file(path, "0000000002-0000000002.0.npy")).unwrap();
    };
    bench.case("an old manifest, an input gone", old_and_gone, &nothing);
    println!("repair: {} misplaced files", bench.tried);
}

/// A segment of the same store and commit number, written to the original after a copy was restored from it.
#[test]
fn a_segment_of_another_history_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    build(&path);
    vecstore::restore(&path, &copy).unwrap();
    let append = |path: &Path, key: &str| {
        let store = quiet().open(path).unwrap();
        let mut batch = store.batch();
        batch.push_converted(key, &[1.0, 2.0]).unwrap();
        store.append(&mut batch, OnDuplicate::Skip).unwrap();
        store.close().unwrap();
    };
    append(&path, "ours");
    append(&copy, "theirs");
    let seven = "0000000007-0000000007.0.npy";
    let ours = fs::read(file(&path, seven)).unwrap();
    fs::copy(file(&path, seven), file(&copy, seven)).unwrap();
    assert!(matches!(Store::open(&copy).unwrap_err(), Error::ForeignSegment { .. }));
    let report = vecstore::repair(&copy).unwrap();
    assert!(vecstore::verify(&copy).unwrap().is_whole(), "{report:#?}");
    assert_eq!(fs::read(copy.join("quarantine").join(seven)).unwrap(), ours);
    let store = Store::open(&copy).unwrap();
    assert!(!store.snapshot().contains("ours").unwrap() && !store.snapshot().contains("theirs").unwrap());
    assert_eq!(store.snapshot().last_commit(), 7, "its number is not given twice");
}

/// A damaged merge of which one input is left: the entries rescued from the merge count, and the input is
/// kept in quarantine.
#[test]
fn a_lone_input_of_a_damaged_merge_is_kept() {
    let mut bench = Bench::new();
    let input = "0000000002-0000000002.0.npy";
    let damage = |path: &Path| {
        for gone in [
            "versions/pinned",
            "segments/0000000001-0000000001.0.npy",
            "segments/0000000003-0000000003.0.npy",
        ] {
            fs::remove_file(path.join(gone)).unwrap();
        }
        let index = sections(&file(path, MERGED)).into_iter().find(|(name, ..)| name == "HASH").unwrap();
        flip(&file(path, MERGED), index.1);
    };
    let report = bench.case("one input left", damage, &Expect::nothing());
    assert!(report.findings.iter().any(|finding| {
        finding.moved_to.as_ref().is_some_and(|to| to.ends_with(Path::new("quarantine").join(input)))
    }));
}

/// Two plain copies of a store that both continue: their epoch is the same, their links differ.
#[test]
fn links_tell_histories_of_one_epoch_apart() {
    let bench = Bench::new();
    for without_manifest in [false, true] {
        let path = bench.fresh();
        let twin = bench.dir.path().join("twin");
        let _ = fs::remove_dir_all(&twin);
        copy_dir(&path, &twin);
        let append = |path: &Path, keys: &[&str]| {
            let store = quiet().open(path).unwrap();
            for key in keys {
                let mut batch = store.batch();
                batch.push_converted(key, &[1.0, 2.0]).unwrap();
                store.append(&mut batch, OnDuplicate::Skip).unwrap();
            }
            store.close().unwrap();
        };
        append(&path, &["ours"]);
        append(&twin, &["theirs", "theirs too"]);
        let eight = "0000000008-0000000008.0.npy";
        fs::copy(file(&twin, eight), file(&path, eight)).unwrap();
        if without_manifest {
            fs::remove_file(path.join("MANIFEST")).unwrap();
        }
        assert!(Store::open(&path).is_err());
        let report = vecstore::repair(&path).unwrap();
        assert!(vecstore::verify(&path).unwrap().is_whole(), "{report:#?}");
        assert!(path.join("quarantine").join(eight).exists());
        let snapshot = Reader::open(&path).unwrap().snapshot();
        assert!(snapshot.contains("ours").unwrap() && !snapshot.contains("theirs too").unwrap());
        assert_eq!(contents(&snapshot).len(), bench.before.len() + 1);
    }
}

/// A segment written to a copy of the unrepaired store does not fit the repaired store, although its link
/// would.
#[test]
fn a_repair_begins_an_epoch() {
    let bench = Bench::new();
    let path = bench.fresh();
    let twin = bench.dir.path().join("twin");
    copy_dir(&path, &twin);
    let store = quiet().open(&twin).unwrap();
    let mut batch = store.batch();
    batch.push_converted("from before", &[1.0, 2.0]).unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    store.close().unwrap();
    fs::remove_file(file(&path, SIX)).unwrap();
    vecstore::repair(&path).unwrap();
    let seven = "0000000007-0000000007.0.npy";
    fs::copy(file(&twin, seven), file(&path, seven)).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::ForeignSegment { .. }), "{error}");
    let report = vecstore::repair(&path).unwrap();
    assert_eq!((report.findings.len(), report.last_commit), (1, 6), "{report:#?}");
    assert!(Store::open(&path).is_ok());
}

/// Damage to bitmaps and versions costs no entry of the store.
#[test]
fn damaged_bitmaps_and_versions_are_set_aside() {
    let mut bench = Bench::new();
    let nothing = Expect::nothing();
    let bitmaps = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path.join("derived")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    bench.case("bitmaps flipped", |path| bitmaps(path).iter().for_each(|file| flip(file, 170)), &nothing);
    bench.case(
        "bitmaps gone",
        |path| bitmaps(path).iter().for_each(|file| fs::remove_file(file).unwrap()),
        &nothing,
    );
    let pinned = |path: &Path| path.join("versions/pinned");
    let report = bench.case("a version flipped", |path| flip(&pinned(path), 80), &nothing);
    assert!(report.findings[0].moved_to.as_ref().unwrap().ends_with("quarantine/version-pinned"));
    // A merge input that only the version needs.
    let input = "0000000002-0000000002.0.npy";
    let hit = |path: &Path| {
        let rows = sections(&file(path, input)).into_iter().find(|(name, ..)| name == "ROWS").unwrap();
        flip(&file(path, input), rows.1);
    };
    bench.case("a pinned input hit", hit, &nothing);
    bench.case("a pinned input gone", |path| fs::remove_file(file(path, input)).unwrap(), &nothing);
    println!("repair: {} damages beside the chain", bench.tried);
}

/// In a segment of many blocks, only the entries in the damaged block are lost. The merge's inputs are gone
/// already.
#[test]
fn a_damaged_block_costs_only_its_own_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (dir.path().join("whole"), dir.path().join("s"));
    let store = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    drop(Store::create(&whole, StoreConfig::new(1024)).unwrap());
    let store = store.open(&whole).unwrap();
    for commit in 1..=4 {
        let mut batch = store.batch();
        for number in 0..16 {
            let key = format!("key {commit}-{number:02}");
            batch.entry(&key).row(&[(commit * 100 + number) as f32; 1024]).payload(b"p").push().unwrap();
        }
        if commit > 1 {
            batch.push(format!("key {}-00", commit - 1), &[0.5f32; 1024]).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    store.compact_full().unwrap();
    let mut batch = store.batch();
    batch.delete("key 4-15").unwrap();
    batch.push("key 4-14", &[2.0f32; 1024]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    let right = contents(&store.snapshot());
    store.close().unwrap();
    let merged = "0000000001-0000000004.0.npy";
    let lines = sections(&file(&whole, merged));
    let offset = |tag: &str| lines.iter().find(|(name, ..)| name == tag).unwrap().1;

    // A row has 4096 bytes and, in a small file, a block of its own: the flipped byte hits row 16 alone.
    let names: Vec<Vec<u8>> = Reader::open(&whole)
        .unwrap()
        .snapshot()
        .iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.location().0.ends_with(merged) && entry.location().1 == 16)
        .map(|entry| entry.key().to_vec())
        .collect();
    assert_eq!(names.len(), 1);
    copy_dir(&whole, &path);
    flip(&file(&path, merged), offset("ROWS") + 65536 + 7);
    let report = vecstore::repair(&path).unwrap();
    assert_eq!(report.lost_keys().collect::<Vec<_>>(), names);
    assert!(vecstore::verify(&path).unwrap().is_whole());
    let mut left = right.clone();
    left.retain(|key, _| !names.contains(key));
    assert_eq!(contents(&Store::open(&path).unwrap().snapshot()), left);

    // Damage in RUNS: entries stay, under addresses that no row ever had, and superseded entries stay
    // superseded.
    fs::remove_dir_all(&path).unwrap();
    copy_dir(&whole, &path);
    flip(&file(&path, merged), offset("RUNS") + 3);
    let report = vecstore::repair(&path).unwrap();
    assert_eq!(report.lost_keys().count(), 0);
    assert!(report.findings[0].readdressed > 50, "{report:#?}");
    assert!(vecstore::verify(&path).unwrap().is_whole());
    let store = Store::open(&path).unwrap();
    let snapshot = store.snapshot();
    let without_address = |contents: Contents| -> BTreeMap<Vec<u8>, (String, Vec<u32>, Vec<u8>)> {
        contents.into_iter().map(|(key, (kind, rows, payload, _))| (key, (kind, rows, payload))).collect()
    };
    assert_eq!(without_address(contents(&snapshot)), without_address(right.clone()));
    for (_, (_, _, _, address)) in right.iter().filter(|(key, _)| key.as_slice() != b"key 4-14") {
        assert_eq!(
            snapshot.row_at(address.parse().unwrap()).unwrap(),
            None,
            "nothing else answers to an old address"
        );
    }
}

/// All segments are gone with their directory: the loss is reported like that of a single segment.
#[test]
fn a_store_without_its_directory_of_segments_is_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    batch.push("a", &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    batch.push_rows("b", [[1.0f32], [2.0]]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
    fs::remove_dir_all(path.join("segments")).unwrap();
    let dry = vecstore::repair_with(&path, RepairOptions::new().dry_run(true)).unwrap();
    assert!(dry.findings.iter().any(|finding| finding.lost_unknown));
    let repaired = vecstore::repair(&path).unwrap();
    assert!(repaired.findings.iter().any(|finding| finding.path == path.join("segments")), "{repaired:?}");
    let lost = repaired.findings.iter().find(|finding| finding.lost_unknown).unwrap();
    assert_eq!(lost.listed, Some((2, 3)), "{lost:?}");
    assert!(lost.notes[0].contains("2 entries with 3 rows"), "{lost:?}");
    crate::common::assert_whole(&path);
    assert_eq!(Store::open(&path).unwrap().snapshot().totals().entries, 0);
}

/// Versions cannot be listed, so that the segments they need are unknown.
#[test]
fn a_file_in_the_place_of_the_versions_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    Store::create(&path, StoreConfig::new(1)).unwrap().close().unwrap();
    fs::write(path.join("versions"), "not a directory").unwrap();
    let report = vecstore::verify(&path).unwrap();
    assert!(report.faults.iter().any(|fault| fault.path == path.join("versions")), "{:?}", report.faults);
}

/// Keys tell what a lost segment superseded: a repair reads only the keys of other segments' entries, and
/// keeps their reasons and attributes.
#[test]
fn reasons_and_attributes_survive_the_loss_of_the_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store =
        OpenOptions::new().merge_policy(MergePolicy::OnDemand).create(&path, StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    batch.entry("broken").payload(b"stamp").push_rejected("no picture").unwrap();
    batch.entry("a").row(&[1.0f32]).attribute("year", 2024).push().unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    batch.push("b", &[2.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
    fs::remove_file(file(&path, "0000000002-0000000002.0.npy")).unwrap();
    let report = vecstore::repair(&path).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    assert!(vecstore::verify(&path).unwrap().is_whole());
    let snapshot = Store::open(&path).unwrap().snapshot();
    let entry = |key| snapshot.get(key).unwrap().unwrap();
    assert_eq!((entry("broken").reason(), entry("broken").payload()), (Some("no picture"), &b"stamp"[..]));
    assert_eq!(entry("a").attribute("year").unwrap(), Some(Value::I64(2024)));
}

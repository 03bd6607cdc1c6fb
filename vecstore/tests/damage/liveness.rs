//! Liveness bitmaps that are damaged, forged, about other segments, or left by a crash: `verify` reports
//! them, and they change no answer.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::assert_whole;
use crate::common::bitmaps::{bitmaps, options, put, read_only, segments, small, state};
use crate::common::layout::{DERIVED_HEADER, live_records, seal_derived, seal_manifest};
use crate::sim::tier::sampled;

/// Flipped bits and wrong lengths (all, or a sample) of a bitmap; a missing bitmap, another segment's bitmap,
/// and a directory in its place.
#[test]
fn a_damaged_bitmap_is_reported_and_changes_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    let right = state(&store.snapshot());
    store.close().unwrap();
    let files = bitmaps(&path);
    let check = |what: &str, file: &Path| {
        assert_eq!(state(&read_only(&path).unwrap().snapshot()), right, "{what}");
        let report = vecstore::verify(&path).unwrap();
        assert!(report.faults.iter().all(|fault| fault.path == file), "{what}: {:?}", report.faults);
        assert!(!report.is_whole(), "{what}");
    };
    for file in &files {
        let good = fs::read(file).unwrap();
        assert_eq!(good.len(), DERIVED_HEADER + 8 + 8 + 4);
        for bit in sampled(0..good.len() * 8, 7, 0) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(file, bytes).unwrap();
            check(&format!("bit {bit}"), file);
        }
        for len in sampled((0..good.len() + 20).filter(|len| *len != good.len()), 3, 0) {
            let mut bytes = good.clone();
            bytes.resize(len, 0);
            fs::write(file, bytes).unwrap();
            check(&format!("length {len}"), file);
        }
        fs::remove_file(file).unwrap();
        check("missing", file);
        fs::create_dir(file).unwrap();
        check("a directory", file);
        fs::remove_dir(file).unwrap();
        fs::copy(files.iter().find(|other| *other != file).unwrap(), file).unwrap();
        check("another segment's", file);
        fs::write(file, good).unwrap();
        assert_whole(&path);
    }
    // The next writer replaces the bitmap by itself.
    fs::write(&files[0], "nothing").unwrap();
    options().open(&path).unwrap().close().unwrap();
    assert_whole(&path);
    assert_ne!(bitmaps(&path)[0], files[0], "under another name");
    assert_eq!(bitmaps(&path).len(), 2);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    fs::remove_dir_all(path.join("derived")).unwrap();
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    assert_eq!(vecstore::verify(&path).unwrap().faults.len(), 2);
    options().open(&path).unwrap().close().unwrap();
    assert_whole(&path);
    assert_eq!(bitmaps(&path).len(), 2);
}

/// Changes a derived file and corrects all checksums.
fn put_forged(path: &Path, file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let (mut bytes, mut manifest) = (fs::read(file).unwrap(), fs::read(path.join("MANIFEST")).unwrap());
    let old_crc: [u8; 4] = bytes[DERIVED_HEADER - 4..DERIVED_HEADER].try_into().unwrap();
    change(&mut bytes);
    let crc = seal_derived(&mut bytes);
    fs::write(file, bytes).unwrap();
    let at = manifest.windows(4).rposition(|bytes| bytes == old_crc).unwrap();
    manifest[at..at + 4].copy_from_slice(&crc);
    seal_manifest(&mut manifest);
    fs::write(path.join("MANIFEST"), manifest).unwrap();
}

/// No damage to a derived file or a version keeps a repair from mending the store.
#[test]
fn a_repair_does_without_derived_files() {
    for case in ["a later version", "a file in place of the folder", "a version called like the manifest"] {
        for is_hit in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let store = small(&path);
            store.create_version("MANIFEST").unwrap();
            store.close().unwrap();
            let derived = path.join("derived");
            match case {
                "a later version" => put_forged(&path, &bitmaps(&path)[0], |bytes| bytes[24] = 1),
                "a file in place of the folder" => {
                    fs::remove_dir_all(&derived).unwrap();
                    fs::write(&derived, "no folder").unwrap();
                }
                _ => {
                    let version = path.join("versions/MANIFEST");
                    let mut bytes = fs::read(&version).unwrap();
                    *bytes.last_mut().unwrap() ^= 1;
                    fs::write(version, bytes).unwrap();
                }
            }
            if is_hit {
                let hit = segments(&path).pop().unwrap();
                let mut bytes = fs::read(&hit).unwrap();
                bytes[4096] ^= 1;
                fs::write(hit, bytes).unwrap();
            }
            assert!(!vecstore::verify(&path).unwrap().is_whole(), "{case}");
            let kept = fs::read(path.join("MANIFEST")).unwrap();
            let report = vecstore::repair(&path).unwrap();
            assert!(!report.was_whole(), "{case}");
            assert!(vecstore::repair(&path).unwrap().was_whole(), "{case}");
            if case.starts_with("a version") && !is_hit {
                assert_eq!(report.findings.len(), 1, "{report:#?}");
                assert!(fs::read(path.join("MANIFEST")).unwrap() == kept, "it is the store's");
            }
            assert_whole(&path);
            options().open(&path).unwrap().close().unwrap();
            assert_whole(&path);
        }
    }
}

/// A bitmap with correct checksums and wrong bits: only `verify` can notice it, and does.
#[test]
fn a_bitmap_that_disagrees_with_the_kills_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    small(&path).close().unwrap();
    let file = &bitmaps(&path)[0];
    let (good, manifest) = (fs::read(file).unwrap(), fs::read(path.join("MANIFEST")).unwrap());
    let forge = |change: &dyn Fn(&mut Vec<u8>)| {
        fs::write(file, &good).unwrap();
        fs::write(path.join("MANIFEST"), &manifest).unwrap();
        put_forged(&path, file, change);
        let report = vecstore::verify(&path).unwrap();
        assert!(report.faults.iter().all(|fault| &fault.path == file), "{:?}", report.faults);
        report.faults.first().map(|fault| fault.detail.clone()).unwrap_or_default()
    };
    assert_eq!(forge(&|_| {}), "");
    // Entries "a", "b", "c": the first two are superseded.
    let (entries, rows) = (DERIVED_HEADER, DERIVED_HEADER + 8);
    assert_eq!(good[entries], 0b011);
    assert!(forge(&|bytes| bytes[entries] = 0b101).contains("is not in it"));
    assert!(forge(&|bytes| bytes[rows] = 0b111).contains("nothing supersedes"));
    assert!(
        forge(&|bytes| bytes[rows + 7] = 0x80).contains("nothing supersedes"),
        "a bit that stands for nothing"
    );
    // Numbers in the header: entries, rows, superseded entries of each kind, superseded rows, the last commit
    // included.
    assert!(forge(&|bytes| bytes[128 + 48] = 1).contains("counts"), "rows");
    assert!(forge(&|bytes| bytes[128 + 56] = 1).contains("nothing supersedes"), "kills of later commits");
    for (at, number) in [(0, 4), (8, 4), (16, 4)] {
        let detail = forge(&|bytes| bytes[128 + at] = number);
        assert!(detail.contains("it does not count what"), "{at}: {detail}");
    }
    assert_eq!(forge(&|bytes| bytes[220] = 1), "", "a byte that a later version may use");
    let notes = vecstore::verify(&path).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("only a later version reads")), "{notes:?}");
}

/// If a listed segment is gone and others stand in for it, their superseded entries are read from kills, not
/// from the listed segment's bitmap.
#[test]
fn a_bitmap_is_not_used_for_segments_that_stand_in_for_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.create_version("pin").unwrap();
    store.compact_full().unwrap();
    // No entry of the output is superseded, but entries of the inputs that will stand in for it are.
    for key in ["w", "x", "y", "z"] {
        put(&store, &[key], 9.0);
    }
    let right = state(&store.snapshot());
    store.close().unwrap();
    let output =
        segments(&path).into_iter().find(|file| file.ends_with("0000000001-0000000004.0.npy")).unwrap();
    fs::remove_file(output).unwrap();
    let found = state(&read_only(&path).unwrap().snapshot());
    assert_eq!((found.0, found.2), (right.0, right.2));
}

/// A manifest that lists a derived file of a segment it does not list is refused: no program writes one.
#[test]
fn a_derived_file_of_an_unlisted_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    small(&path).close().unwrap();
    let good = fs::read(path.join("MANIFEST")).unwrap();
    for at in live_records(&path).iter().flat_map(|record| {
        let at = good.windows(record.len()).position(|bytes| bytes == record).unwrap();
        // First commit of the segment, and the checksum of its footer.
        [at, at + 24]
    }) {
        let mut bad = good.clone();
        bad[at] ^= 8;
        seal_manifest(&mut bad);
        fs::write(path.join("MANIFEST"), bad).unwrap();
        let error = read_only(&path).unwrap_err().to_string();
        assert!(error.contains("about no segment that it lists"), "{error}");
        assert_eq!(vecstore::verify(&path).unwrap().faults.len(), 1);
        vecstore::repair(&path).unwrap();
        assert_whole(&path);
        fs::write(path.join("MANIFEST"), &good).unwrap();
    }
}

#[test]
fn leftovers_of_a_crash_are_no_damage_and_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.checkpoint().unwrap();
    let listed = bitmaps(&path);
    let name = listed[0].file_name().unwrap().to_str().unwrap();
    let other = path.join("derived").join(name.replace(&name[24..40], "0123456789abcdef"));
    fs::copy(&listed[0], &other).unwrap();
    fs::write(path.join("derived/tmp-manifest-00"), "x").unwrap();
    let report = vecstore::verify(&path).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
    store.compact_full().unwrap();
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new());
    // An unreadable version stops all removal: the files it needs are unknown.
    let store = small(&dir.path().join("t"));
    let path = dir.path().join("t");
    store.create_version("x").unwrap();
    let before = bitmaps(&path);
    assert!(!before.is_empty());
    fs::write(path.join("versions/x"), "nothing").unwrap();
    put(&store, &["a", "d"], 1.0);
    store.checkpoint().unwrap();
    assert!(before.iter().all(|file| file.exists()) && bitmaps(&path).len() > before.len());
    assert!(!vecstore::verify(&path).unwrap().is_whole(), "the checkpoint is damaged");
}

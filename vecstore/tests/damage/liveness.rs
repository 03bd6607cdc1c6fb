//! Liveness bitmaps that are damaged, of other files, kept by an older program, or left by a crash: they are
//! told, and change no answer.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::bitmaps::{bitmaps, live_record, options, put, read_only, segments, small, state};
use crate::common::{assert_whole, copy_dir};
use crate::sim::tier::sampled;

/// Every bit of a bitmap and every length, or a sample of them; missing, another's, no file at all.
#[test]
fn a_damaged_bitmap_is_told_and_changes_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    let right = state(&store.snapshot());
    store.close().unwrap();
    let files = bitmaps(&path);
    let check = |what: &str, file: &Path| {
        assert_eq!(state(&read_only(&path).unwrap().snapshot()), right, "{what}");
        let report = vecstore::verify(&path, |_| {}).unwrap();
        assert!(report.faults.iter().all(|fault| fault.path == file), "{what}: {:?}", report.faults);
        assert!(!report.is_whole(), "{what}");
    };
    for file in &files {
        let good = fs::read(file).unwrap();
        assert_eq!(good.len(), 160 + 8 + 8);
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
    // The next writer puts it right, without being asked.
    fs::write(&files[0], "nothing").unwrap();
    options().open(&path).unwrap().close().unwrap();
    assert_whole(&path);
    assert_ne!(bitmaps(&path)[0], files[0], "under another name");
    assert_eq!(bitmaps(&path).len(), 2);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    fs::remove_dir_all(path.join("live")).unwrap();
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    assert_eq!(vecstore::verify(&path, |_| {}).unwrap().faults.len(), 2);
    options().open(&path).unwrap().close().unwrap();
    assert_whole(&path);
    assert_eq!(bitmaps(&path).len(), 2);
}

/// A bitmap whose checksums are right and whose bits are not: only `verify` can tell, and does.
#[test]
fn a_bitmap_that_disagrees_with_the_kills_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    small(&path).close().unwrap();
    let file = &bitmaps(&path)[0];
    let (good, manifest) = (fs::read(file).unwrap(), fs::read(path.join("MANIFEST")).unwrap());
    let old_crc: [u8; 4] = good[156..160].try_into().unwrap();
    let forge = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let crc = crc32fast::hash(&[&bytes[..156], &bytes[160..]].concat()).to_le_bytes();
        bytes[156..160].copy_from_slice(&crc);
        fs::write(file, bytes).unwrap();
        let mut manifest = manifest.clone();
        let at = manifest.windows(4).rposition(|bytes| bytes == old_crc).unwrap();
        manifest[at..at + 4].copy_from_slice(&crc);
        let crc = crc32fast::hash(&[&manifest[..60], &manifest[64..]].concat()).to_le_bytes();
        manifest[60..64].copy_from_slice(&crc);
        fs::write(path.join("MANIFEST"), manifest).unwrap();
        let report = vecstore::verify(&path, |_| {}).unwrap();
        assert!(report.faults.iter().all(|fault| &fault.path == file), "{:?}", report.faults);
        report.faults.first().map(|fault| fault.detail.clone()).unwrap_or_default()
    };
    assert_eq!(forge(&|_| {}), "");
    // Entries "a", "b", "c": the first two are superseded.
    assert_eq!(good[160], 0b011);
    assert!(forge(&|bytes| bytes[160] = 0b101).contains("is not in it"));
    assert!(forge(&|bytes| bytes[168] = 0b111).contains("nothing supersedes"));
    assert!(forge(&|bytes| bytes[136] = 1).contains("counts"), "rows");
    assert!(forge(&|bytes| (bytes[104], bytes[112]) = (0, 2)).contains("more superseded"));
}

/// Where the listed file is gone and others stand in for it, what is superseded in them is read from kills.
#[test]
fn files_that_stand_in_for_a_listed_one_are_not_those_its_bitmap_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.create_version("pin").unwrap();
    store.compact_full().unwrap();
    // Nothing in the output is superseded, but something in what will stand in for it is.
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

/// A program that does not know the record keeps it and changes the segments under it.
#[test]
fn a_record_that_an_older_program_kept_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("s"), dir.path().join("old"));
    let store = small(&path);
    store.checkpoint().unwrap();
    let record = live_record(&path).unwrap();
    put(&store, &["c", "d"], 5.0);
    // Listed, and with the record of before.
    store.set_setting("a", "b").unwrap();
    assert_eq!(live_record(&path).unwrap(), record, "few kills: the bitmaps stay as they are");
    let right = state(&store.snapshot());
    copy_dir(&path, &old);
    assert_eq!(state(&read_only(&old).unwrap().snapshot()), right);
    // Merged, and with the record of before.
    store.compact_full().unwrap();
    let merged = live_record(&path).unwrap();
    assert_ne!(merged, record);
    let manifest = fs::read(path.join("MANIFEST")).unwrap();
    let at = manifest.windows(merged.len()).position(|bytes| bytes == merged).unwrap();
    let mut kept = manifest[..at - 8].to_vec();
    kept.extend_from_slice(&(record.len() as u64).to_le_bytes());
    kept.extend_from_slice(&record);
    kept.extend_from_slice(&manifest[at + merged.len()..]);
    let body_len = (kept.len() - 64) as u64;
    kept[48..56].copy_from_slice(&body_len.to_le_bytes());
    let crc = crc32fast::hash(&[&kept[..60], &kept[64..]].concat()).to_le_bytes();
    kept[60..64].copy_from_slice(&crc);
    fs::write(path.join("MANIFEST"), kept).unwrap();
    assert_eq!(state(&read_only(&path).unwrap().snapshot()).0, right.0);
    let report = vecstore::verify(&path, |_| {}).unwrap();
    assert!(report.is_whole() && report.notes.iter().any(|note| note.contains("older program")));
    drop(store);
    options().open(&path).unwrap().checkpoint().unwrap();
    assert!(vecstore::verify(&path, |_| {}).unwrap().notes.is_empty());
}

#[test]
fn leftovers_of_a_crash_are_no_damage_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.checkpoint().unwrap();
    let listed = bitmaps(&path);
    let name = listed[0].file_name().unwrap().to_str().unwrap();
    let other = path.join("live").join(name.replace(&name[24..40], "0123456789abcdef"));
    fs::copy(&listed[0], &other).unwrap();
    fs::write(path.join("live/tmp-manifest-00"), "x").unwrap();
    let report = vecstore::verify(&path, |_| {}).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
    store.compact_full().unwrap();
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new());
    // An unreadable version stops all removal.
    let store = small(&dir.path().join("t"));
    let path = dir.path().join("t");
    store.create_version("x").unwrap();
    let before = bitmaps(&path);
    assert!(!before.is_empty());
    fs::write(path.join("versions/x"), "nothing").unwrap();
    put(&store, &["a", "d"], 1.0);
    store.checkpoint().unwrap();
    assert!(before.iter().all(|file| file.exists()) && bitmaps(&path).len() > before.len());
    assert!(!vecstore::verify(&path, |_| {}).unwrap().is_whole(), "the checkpoint is damaged");
}

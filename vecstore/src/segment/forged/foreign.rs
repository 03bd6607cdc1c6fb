//! Files that have the store's ids, but describe a store with other properties.

use super::{contents, forge, forge_as, mend, push, seal, store_of, with};
use crate::base::Error;
use crate::handle::Store;
use crate::segment::{Segment, SegmentName};
use crate::state::{Body, FingerprintRecord, Manifest, SegmentRecord, VERSIONS, versions};
use crate::types::Fingerprint;
use crate::vfs::RealFs;

const OURS: [u8; 32] = [1; 32];
const OTHER: [u8; 32] = [2; 32];

/// A segment with another fingerprint does not belong to the store; a segment without a fingerprint does.
#[test]
fn a_file_with_another_fingerprint_is_foreign() {
    for (fingerprint, listed) in [([0; 32], false), (OURS, false), (OTHER, false), (OTHER, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = store_of(&path, &[&["a"]]);
        store.set_fingerprint(&Fingerprint::new(OURS, "ours")).unwrap();
        let name = forge_as(
            &path,
            2..=2,
            |footer, _| footer.fingerprint = fingerprint,
            |builder| push(builder, b"b"),
        );
        if fingerprint != OTHER {
            assert_eq!(contents(&path), with(&[("a", 0.0), ("b", 5.0)]));
            continue;
        }
        if listed {
            let mut manifest = Manifest::read(&RealFs, &path).unwrap();
            let file = SegmentName { first: 2, last: 2, generation: 0 };
            manifest.body.segments.push(SegmentRecord::of(&Segment::open(&RealFs, &name, file).unwrap()));
            manifest.write(&RealFs, &path).unwrap();
        }
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, Error::ForeignSegment { .. }), "{error}");
        let (faults, repaired, contents) = mend(&path);
        assert_eq!((faults.len(), &*faults[0].section, &faults[0].path), (1, "chain", &name));
        assert!(faults[0].detail.contains("another fingerprint"), "{}", faults[0].detail);
        assert_eq!(
            (repaired.last_commit, repaired.findings.len()),
            (1 + u64::from(listed), 1 + usize::from(listed))
        );
        assert!(repaired.findings[0].problem.contains("another fingerprint"), "{repaired:#?}");
        assert_eq!(contents, with(&[("a", 0.0)]));
    }
}

/// The properties and segments of a version are checked against the store. A contradictory version is set
/// aside or repaired; the store stays as it is.
#[test]
fn a_version_of_another_shape_or_history_is_reported() {
    type Change = fn(&mut Body);
    let changes: [(&str, Change); 4] = [
        ("another store", |body| body.store_id = [9; 16]),
        ("not the store's", |body| body.dim += 1),
        ("not the store's", |body| body.metric = 3),
        ("does not continue", |body| body.epochs[0].id = [9; 16]),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = store_of(&path, &[&["a"], &["a", "b"]]);
        store.create_version("x").unwrap();
        store.close().unwrap();
        let mut version = versions::read(&RealFs, &path, "x").unwrap();
        change(&mut version.body);
        let file = path.join(VERSIONS).join("x");
        std::fs::write(&file, version.encode().unwrap()).unwrap();
        let (faults, repaired, contents) = mend(&path);
        assert_eq!((faults.len(), &faults[0].path), (1, &file), "{faults:?}");
        assert!(faults[0].detail.contains(what), "{what}: {faults:?}");
        assert_eq!(repaired.findings[0].path, file, "{repaired:#?}");
        // With another history, the version gets a file of its own instead of the store's first file.
        let findings = 1 + usize::from(what == "does not continue");
        assert_eq!(repaired.findings.len(), findings, "{repaired:#?}");
        assert_eq!(contents, with(&[("a", 1.0), ("b", 1.0)]));
    }
}

/// A manifest, or a version, that claims complete bitmaps without listing them is reported, and a repair
/// corrects it.
#[test]
fn unlisted_bitmaps_are_reported() {
    for of_version in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = store_of(&path, &[&["a"], &["a", "b"]]);
        store.create_version("x").unwrap();
        store.close().unwrap();
        let name = if of_version { "versions/x" } else { "MANIFEST" };
        let mut manifest = match of_version {
            true => versions::read(&RealFs, &path, "x").unwrap(),
            false => Manifest::read(&RealFs, &path).unwrap(),
        };
        assert_eq!((manifest.body.live_last, manifest.body.derived.len()), (2, 1));
        manifest.body.derived.clear();
        std::fs::write(path.join(name), manifest.encode().unwrap()).unwrap();
        let (faults, repaired, contents) = mend(&path);
        assert_eq!((faults.len(), &faults[0].path), (1, &path.join(name)), "{faults:?}");
        assert_eq!((repaired.findings.len(), &repaired.findings[0].path), (1, &path.join(name)));
        assert_eq!(contents, with(&[("a", 1.0), ("b", 1.0)]));
    }
}

/// A version whose fingerprint is not the store's, or not that of its files, is set aside.
#[test]
fn a_version_with_another_fingerprint_is_foreign() {
    for store_has in [Some(OURS), None] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(store_of(&path, &[&["a"]]));
        forge_as(&path, 2..=2, |footer, _| footer.fingerprint = OURS, |builder| push(builder, b"b"));
        let store = Store::open(&path).unwrap();
        if let Some(id) = store_has {
            store.set_fingerprint(&Fingerprint::new(id, "ours")).unwrap();
        }
        store.create_version("x").unwrap();
        drop(store);
        let mut version = versions::read(&RealFs, &path, "x").unwrap();
        version.body.fingerprint = Some(FingerprintRecord { id: OTHER, description: String::new() });
        let file = path.join(VERSIONS).join("x");
        std::fs::write(&file, version.encode().unwrap()).unwrap();
        let repaired = crate::care::repair(&path).unwrap();
        assert_eq!((repaired.findings.len(), &repaired.findings[0].path), (1, &file), "{repaired:#?}");
        assert!(repaired.findings[0].problem.contains("another fingerprint"), "{repaired:#?}");
        assert!(!file.exists());
        assert_eq!(contents(&path), with(&[("a", 0.0), ("b", 5.0)]));
    }
}

/// Without a manifest, the store's fingerprint is the one that most files have.
#[test]
fn the_fingerprint_is_known_without_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(store_of(&path, &[&["a"]]));
    for (commit, fingerprint) in [(2, OURS), (3, OURS), (4, OTHER)] {
        forge_as(
            &path,
            commit..=commit,
            |footer, _| footer.fingerprint = fingerprint,
            |builder| push(builder, b"b"),
        );
    }
    std::fs::remove_file(path.join("MANIFEST")).unwrap();
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!(repaired.last_commit, 3, "{repaired:#?}");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.snapshot().fingerprint().unwrap().id(), &OURS);
}

/// After an older manifest was put back, the files still know the fingerprint.
#[test]
fn only_the_fingerprint_of_the_files_can_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(store_of(&path, &[&["a"]]));
    forge_as(&path, 2..=2, |footer, _| footer.fingerprint = OURS, |builder| push(builder, b"b"));
    let store = Store::open(&path).unwrap();
    let error = store.set_fingerprint(&Fingerprint::new(OTHER, "other")).unwrap_err();
    assert!(matches!(error, Error::FingerprintMismatch { .. }), "{error}");
    store.set_fingerprint(&Fingerprint::new(OURS, "ours")).unwrap();
    assert_eq!(store.snapshot().fingerprint().unwrap().description(), "ours");
}

/// If epochs do not follow each other, the manifest counts as damaged and is rebuilt from the files.
#[test]
fn epochs_that_do_not_follow_each_other_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = store_of(&path, &[&["a"], &["b"]]);
    store.close().unwrap();
    let file = path.join("MANIFEST");
    let mut bytes = std::fs::read(&file).unwrap();
    let id = Manifest::read(&RealFs, &path).unwrap().body.epochs[0].id;
    let at = bytes.windows(16).position(|bytes| bytes == id).unwrap();
    bytes[at + 16] = 1;
    let crc = crc32fast::hash(&[&bytes[..124], &bytes[128..]].concat()).to_le_bytes();
    bytes[124..128].copy_from_slice(&crc);
    std::fs::write(&file, bytes).unwrap();
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &*faults[0].section, &faults[0].path), (1, "manifest", &file));
    assert!(faults[0].detail.contains("does not follow epoch"), "{}", faults[0].detail);
    assert!(repaired.rebuilt);
    assert_eq!(contents, with(&[("a", 0.0), ("b", 1.0)]));
}

/// Files of one epoch, then of another, then of the first again: no manifest can list them, and yet a repair
/// makes one.
#[test]
fn an_epoch_that_comes_back_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(store_of(&path, &[&["a"]]));
    let [name, _] =
        [(2, b"c"), (3, b"d")].map(|(commit, key)| forge(&path, commit, |builder| push(builder, key)));
    seal(&name, |layout| layout.footer.epoch = [9; 16]);
    std::fs::remove_file(path.join("MANIFEST")).unwrap();
    assert!(crate::care::repair(&path).unwrap().rebuilt);
    assert_eq!(contents(&path), with(&[("a", 0.0), ("c", 5.0), ("d", 5.0)]));
}

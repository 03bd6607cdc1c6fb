//! A store to be damaged in many ways, and the checks of its repair.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vecstore::{
    DType, Error, MergePolicy, Metric, OnDuplicate, OpenOptions, ReadOptions, Reader, RepairOptions,
    RepairReport, Snapshot, Store, StoreConfig,
};

use super::copy_dir;

/// An entry: kind, rows as bits, reason and payload, address of its first row.
pub type Value = (String, Vec<u32>, Vec<u8>, String);
/// Live entries by key.
pub type Contents = BTreeMap<Vec<u8>, Value>;

/// The reason and the payload of an entry, one after the other.
fn noted(entry: &vecstore::Entry<'_>) -> Vec<u8> {
    [entry.reason().unwrap_or_default().as_bytes(), entry.payload()].concat()
}

pub fn contents(snapshot: &Snapshot) -> Contents {
    snapshot
        .iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let rows: Vec<u32> = entry.to_f32().unwrap().iter().map(|x| x.to_bits()).collect();
            let address = entry.address();
            if entry.row_count() > 0 {
                let at: Vec<u32> =
                    snapshot.row_at(address).unwrap().unwrap().iter().map(|x| x.to_bits()).collect();
                assert_eq!(rows[..at.len()], at, "the row at {address}");
            }
            let found = snapshot.get(entry.key()).unwrap().expect("what is listed is found");
            assert_eq!(found.address(), address);
            (entry.key().to_vec(), (entry.kind().to_string(), rows, noted(&entry), address.to_string()))
        })
        .collect()
}

pub fn read(path: &Path) -> Result<Contents, Error> {
    let store = Reader::open(path)?;
    let snapshot = store.snapshot();
    let mut read = Contents::new();
    for entry in snapshot.iter() {
        let entry = entry?;
        let rows = entry.to_f32()?.iter().map(|x| x.to_bits()).collect();
        snapshot.get(entry.key())?;
        snapshot.row_at(entry.address())?;
        let value = (entry.kind().to_string(), rows, noted(&entry), entry.address().to_string());
        read.insert(entry.key().to_vec(), value);
    }
    snapshot.search(&[1.0, 1.0], 3)?;
    Ok(read)
}

pub fn quiet() -> OpenOptions {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand)
}

/// Builds a store: commits 1 to 3 merged (a version pins the inputs), 4 to 6 each in a file of its own.
pub fn build(path: &Path) -> Contents {
    let config = StoreConfig::new(2).dtype(DType::I8).metric(Metric::L2).setting("root", "/pictures");
    drop(Store::create(path, config).unwrap());
    let store = quiet().open(path).unwrap();
    let mut number = 0.0f32;
    let mut row = || {
        number += 1.0;
        [number, -number / 3.0]
    };
    for commit in 1..=3 {
        let mut batch = store.batch();
        for name in ["a", "b", "c"] {
            batch.entry(format!("{name}{commit}")).converted(&row()).payload(name.as_bytes()).push().unwrap();
        }
        batch.push_empty(format!("none{commit}")).unwrap();
        batch.entry(format!("bad{commit}")).payload(b"tried").push_rejected("no picture").unwrap();
        if commit == 2 {
            batch.push_converted("a1", &row()).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    store.create_version("pinned").unwrap();
    store.compact_full().unwrap();
    let mut batch = store.batch();
    batch.entry("two rows").converted(&[9.0, 8.0]).converted(&[7.0, 6.0]).push().unwrap();
    batch.entry("b1").converted(&row()).payload(b"newer").push().unwrap();
    batch.delete("c1").unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    let mut batch = store.batch();
    batch.push_converted("d5", &row()).unwrap();
    batch.delete("none2").unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    let mut batch = store.batch();
    batch.push_converted("e6", &row()).unwrap();
    batch.push_converted("a2", &row()).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    let contents = contents(&store.snapshot());
    store.close().unwrap();
    contents
}

/// A store, and fresh copies of it to be damaged.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub before: Contents,
    pub tried: usize,
}

/// The loss that is expected of a repair.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// Lost keys that the report names.
    pub lost: BTreeSet<Vec<u8>>,
    /// Lost keys that the report only counts.
    pub unnamed: BTreeSet<Vec<u8>>,
    /// The report cannot say what was lost.
    pub unknown: bool,
}

impl Expect {
    pub fn nothing() -> Self {
        Expect::default()
    }

    pub fn keys(keys: &[&str]) -> Self {
        Expect { lost: keys.iter().map(|key| key.as_bytes().to_vec()).collect(), ..Expect::default() }
    }

    pub fn unnamed(keys: &[&str]) -> Self {
        Expect { unnamed: Expect::keys(keys).lost, ..Expect::default() }
    }
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let before = build(&dir.path().join("whole"));
        assert!(vecstore::verify(dir.path().join("whole")).unwrap().is_whole());
        Bench { dir, before, tried: 0 }
    }

    pub fn fresh(&self) -> PathBuf {
        let path = self.dir.path().join("s");
        let _ = fs::remove_dir_all(&path);
        copy_dir(&self.dir.path().join("whole"), &path);
        path
    }

    /// Damages a copy, reads it, repairs it, and checks it against the expected loss.
    pub fn case(&mut self, what: &str, damage: impl FnOnce(&Path), expect: &Expect) -> RepairReport {
        self.tried += 1;
        let path = self.fresh();
        damage(&path);
        self.check(what, &path, expect)
    }

    pub fn check(&self, what: &str, path: &Path, expect: &Expect) -> RepairReport {
        // Reading reports the damage, or works if only other parts were damaged.
        if let Err(error) = read(path) {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{what}: {text}");
            assert!(text.contains("vecstore repair"), "{what}: {text}");
        }
        let bytes_before = all_bytes(path);
        let names_before = names(path);
        let dry = vecstore::repair_with(path, RepairOptions::new().dry_run(true))
            .unwrap_or_else(|error| panic!("{what}: dry run: {error}"));
        assert_eq!(names(path), names_before, "{what}: a dry run changes nothing");
        let report = vecstore::repair(path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let told = |report: &RepairReport| {
            let findings = report.findings.iter();
            let findings: Vec<_> = findings.map(|f| (f.path.clone(), f.kept, f.lost_keys.clone())).collect();
            (report.rebuilt, report.segments, report.last_commit, findings)
        };
        assert_eq!(told(&dry), told(&report), "{what}: the dry run says what the repair does");
        let verified = vecstore::verify(path).unwrap();
        assert!(verified.is_whole(), "{what}: {:#?}\n{report:#?}", verified.faults);

        // Nothing is deleted: the bytes of every file still exist somewhere.
        let bytes_after = all_bytes(path);
        for (file, bytes) in &bytes_before {
            let kept = bytes_after.values().any(|after| after == bytes) || file.ends_with("MANIFEST");
            assert!(kept || file.starts_with("versions"), "{what}: {} is gone", file.display());
        }

        let store =
            quiet().open(path).unwrap_or_else(|error| panic!("{what}: opening: {error}\n{report:#?}"));
        let after = contents(&store.snapshot());
        let lost: BTreeSet<Vec<u8>> = report.lost_keys().map(<[u8]>::to_vec).collect();
        assert_eq!(lost, expect.lost, "{what}: {report:#?}");
        let unknown = report.findings.iter().any(|finding| finding.lost_unknown);
        assert_eq!(unknown, expect.unknown, "{what}: {report:#?}");
        let unnamed: u64 = report.findings.iter().map(|finding| finding.lost_unnamed).sum();
        assert_eq!(unnamed, if unknown { 0 } else { expect.unnamed.len() as u64 }, "{what}: {report:#?}");
        let mut right = self.before.clone();
        right.retain(|key, _| !expect.lost.contains(key) && !expect.unnamed.contains(key));
        assert_eq!(after, right, "{what}: {report:#?}");
        for key in expect.lost.iter().chain(&expect.unnamed) {
            assert_eq!(
                store.snapshot().missing(&[key]).unwrap(),
                [0],
                "{what}: {:?}",
                String::from_utf8_lossy(key)
            );
        }
        // A repaired segment that lacks entries says so in its footer.
        for finding in
            report.findings.iter().filter(|finding| finding.path.starts_with(path.join("segments")))
        {
            let Some(by) = &finding.replaced_by else { continue };
            let bytes = fs::read(by).unwrap();
            let lacks = !finding.lost_keys.is_empty() || finding.lost_unnamed > 0 || finding.lost_unknown;
            let told = super::layout::compat(&bytes) & 1 == 1;
            assert!(told || !lacks, "{what}: {report:#?}");
            assert!(!told || lacks || !finding.notes.is_empty(), "{what}: {report:#?}");
        }
        // A list beside each quarantined file has its lost keys.
        for finding in report.findings.iter().filter(|finding| !finding.lost_keys.is_empty()) {
            let list = fs::read_to_string(finding.list.as_ref().unwrap()).unwrap();
            let keys: Vec<&[u8]> = list.lines().map(str::as_bytes).collect();
            assert_eq!(keys, finding.lost_keys, "{what}");
        }
        // Lost keys can be appended again, and the commit gets the next number.
        let last = store.snapshot().last_commit();
        assert_eq!(last, report.last_commit);
        let mut batch = store.batch();
        for key in expect.lost.iter().chain(&expect.unnamed) {
            batch.push_converted(key, &[3.0f32, 4.0]).unwrap();
        }
        batch.push_converted("after the repair", &[1.0f32, 2.0]).unwrap();
        let appended = store.append(&mut batch, OnDuplicate::Skip).unwrap();
        assert_eq!(appended.commit, Some(last + 1), "{what}");
        assert_eq!(appended.skipped, 0, "{what}: what is lost can be embedded again");
        let count = store.snapshot().iter().count();
        assert_eq!(count, self.before.len() + 1, "{what}: no key is there twice");
        if store.versions().unwrap().iter().any(|version| version.name == "pinned") {
            let opened = ReadOptions::new().at_version("pinned").open(path);
            opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        store.compact_full().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(contents(&store.snapshot()).len(), count, "{what}: merged");
        store.close().unwrap();
        let verified = vecstore::verify(path).unwrap();
        assert!(verified.is_whole(), "{what}, gone on: {:?}", verified.faults);
        assert!(vecstore::repair(path).unwrap().was_whole(), "{what}: repaired for good");
        report
    }
}

pub fn names(path: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            names.insert(entry.path());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    names
}

/// Bytes of all files except locks and derived files.
pub fn all_bytes(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = names(path).into_iter().filter(|name| {
        let name_of = name.file_name().unwrap().to_string_lossy();
        !name_of.starts_with("LOCK")
            && !name.parent().unwrap().ends_with("derived")
            && fs::symlink_metadata(name).unwrap().is_file()
    });
    files.map(|file| (file.strip_prefix(path).unwrap().to_owned(), fs::read(&file).unwrap())).collect()
}

pub fn file(path: &Path, name: &str) -> PathBuf {
    path.join("segments").join(name)
}

pub fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Sections of a segment: name, offset, length.
pub fn sections(path: &Path) -> Vec<(String, usize, usize)> {
    let sections = super::layout::sections_of(&fs::read(path).unwrap());
    sections.into_iter().map(|section| (section.name, section.offset, section.len)).collect()
}

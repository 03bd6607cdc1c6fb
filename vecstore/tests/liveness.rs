//! Liveness bitmaps: with them and without, a store says the same; opening with them reads no kill they know.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vecstore::{Error, Merging, OnDuplicate, OpenOptions, Snapshot, Store, StoreConfig, Totals};

fn options() -> OpenOptions {
    OpenOptions::new().merging(Merging::OnDemand)
}

fn create(path: &Path) -> Store {
    options().create(path, StoreConfig::new(2)).unwrap()
}

fn put(store: &Store, keys: &[&str], x: f32) {
    let mut batch = store.batch();
    for key in keys {
        batch.push(key, &[x, -x]).unwrap();
    }
    store.append(batch, OnDuplicate::Replace).unwrap();
}

/// Everything that liveness decides: entries and where they are, totals, what a search sees.
fn state(snapshot: &Snapshot) -> (BTreeMap<Vec<u8>, String>, Totals, usize) {
    let entries = snapshot.iter().map(|entry| {
        let entry = entry.unwrap();
        (entry.key().to_vec(), format!("{} {} {:?}", entry.kind(), entry.address(), entry.to_f32().unwrap()))
    });
    let hits = snapshot.search(&[1.0, 1.0], usize::MAX).unwrap().len();
    (entries.collect(), snapshot.totals(), hits)
}

fn read_only(path: &Path) -> Result<Store, Error> {
    options().read_only(true).open(path)
}

fn bitmaps(path: &Path) -> Vec<PathBuf> {
    let Ok(names) = fs::read_dir(path.join("live")) else { return Vec::new() };
    let mut names: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn assert_whole(path: &Path) {
    let report = vecstore::verify(path, |_| {}).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
}

/// Damages the kills of a segment. Whoever reads them finds out.
fn spoil_kills(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    let footer = bytes.len() - 1024;
    let line = (0..20)
        .map(|line| footer + 376 + line * 32)
        .find(|at| &bytes[*at..at + 4] == b"KILL")
        .expect("it has kills");
    let offset = u64::from_le_bytes(bytes[line + 8..line + 16].try_into().unwrap());
    bytes[offset as usize] ^= 1;
    fs::write(segment, bytes).unwrap();
}

/// Two segments with superseded entries, and one that supersedes them.
fn small(path: &Path) -> Store {
    let store = create(path);
    put(&store, &["a", "b", "c"], 1.0);
    put(&store, &["d", "e"], 2.0);
    put(&store, &["a", "e"], 3.0);
    store.delete(&["b"]).unwrap();
    store
}

#[test]
fn a_closed_store_opens_without_reading_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    let right = state(&store.snapshot());
    store.close().unwrap();
    assert_eq!(bitmaps(&path).len(), 2, "one for each segment with superseded entries");
    assert_whole(&path);
    let files = segments(&path);
    spoil_kills(&files[2]);
    spoil_kills(&files[3]);
    let store = read_only(&path).unwrap();
    assert_eq!(state(&store.snapshot()), right, "the damaged kills were not read");
    let report = vecstore::verify(&path, |_| {}).unwrap();
    assert!(report.faults.iter().any(|fault| fault.path == files[2] && fault.section == "KILL"));
    fs::remove_dir_all(path.join("live")).unwrap();
    let error = read_only(&path).unwrap_err();
    assert!(matches!(&error, Error::Damaged { section, .. } if section == "KILL"), "now they are: {error}");
}

/// Kills of commits after the last checkpoint are replayed on top of what bitmaps say.
#[test]
fn later_kills_are_replayed_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = small(&path);
    store.checkpoint().unwrap();
    put(&store, &["a", "c"], 4.0);
    store.delete(&["d", "a"]).unwrap();
    let right = state(&store.snapshot());
    assert_eq!(right.0.len(), 2);
    // As a kill would leave it.
    copy_tree(&path, &copy);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
    // What is in bitmaps is not read again, what came later is.
    spoil_kills(&segments(&copy)[2]);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
    spoil_kills(&segments(&copy)[4]);
    assert!(read_only(&copy).is_err());
    drop(store);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    assert_whole(&path);
}

#[test]
fn only_changed_bitmaps_are_written_and_superseded_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.checkpoint().unwrap();
    let before = bitmaps(&path);
    put(&store, &["c"], 5.0);
    store.checkpoint().unwrap();
    let after = bitmaps(&path);
    assert_eq!(after.len(), 2);
    assert_ne!(after[0], before[0], "the first segment has one more");
    assert_eq!(after[1], before[1], "the second has not");
    put(&store, &["f"], 6.0);
    store.checkpoint().unwrap();
    assert_eq!(bitmaps(&path), after, "nothing was superseded");

    // A named checkpoint needs what it lists.
    store.create_checkpoint("then").unwrap();
    let then = state(&store.snapshot());
    store.delete(&["d"]).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(bitmaps(&path).len(), 3, "the second segment's is pinned and superseded");
    store.compact_full().unwrap();
    assert_eq!(bitmaps(&path), after, "pinned ones only");
    assert_whole(&path);
    let at = || options().at_checkpoint("then").open(&path);
    assert_eq!(state(&at().unwrap().snapshot()), then);
    spoil_kills(
        &segments(&path).into_iter().find(|file| file.ends_with("0000000003-0000000003.0.npy")).unwrap(),
    );
    assert_eq!(state(&at().unwrap().snapshot()), then, "a checkpoint is opened with its bitmaps");
    fs::remove_file(&after[0]).unwrap();
    assert!(vecstore::verify(&path, |_| {}).unwrap().faults.iter().any(|fault| fault.path == after[0]));
    assert!(at().is_err(), "without one, the kills are read");
    store.drop_checkpoint("then").unwrap();
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new());
    assert_whole(&path);
}

/// Every bit of a bitmap, every length, missing, another's, no file at all.
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
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(file, bytes).unwrap();
            check(&format!("bit {bit}"), file);
        }
        for len in (0..good.len() + 20).filter(|len| *len != good.len()) {
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
    // The next one who writes puts it right, without being asked.
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

#[test]
fn two_handles_and_a_merge_by_the_other_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = small(&path);
    let second = options().open(&path).unwrap();
    first.checkpoint().unwrap();
    // The second handle merges; the first still reads the former files, and kills what is in the merged one.
    second.compact_full().unwrap();
    put(&first, &["a", "d"], 7.0);
    let right = state(&first.snapshot());
    first.checkpoint().unwrap();
    assert_eq!(bitmaps(&path).len(), 1);
    let merged = state(&first.snapshot());
    assert_eq!(merged.0, right.0);
    assert!(merged.1.bytes < right.1.bytes, "it reads the merged file now");
    let reader = read_only(&path).unwrap();
    assert_eq!(state(&reader.snapshot()), merged);
    assert_eq!(state(&second.refresh().unwrap()).0, right.0);
    spoil_kills(&segments(&path)[1]);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()).0, right.0, "from bitmaps of the merged file");
}

/// What a merge cannot drop is in bitmaps afterwards too: nothing is read twice.
#[test]
fn a_compacted_and_closed_store_opens_without_reading_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    put(&store, &["a", "b", "c"], 1.0);
    store.create_checkpoint("pin").unwrap();
    for x in 2..8 {
        put(&store, &["a", "b", "d"], x as f32);
    }
    store.compact_full().unwrap();
    put(&store, &["a"], 9.0);
    let right = state(&store.snapshot());
    store.compact().unwrap();
    store.close().unwrap();
    assert_whole(&path);
    let reader = read_only(&path).unwrap();
    assert_eq!(state(&reader.snapshot()).0, right.0);
    drop(reader);
    let with_kills = |file: &PathBuf| fs::read(file).unwrap().windows(4).any(|bytes| bytes == b"KILL");
    let spoiled =
        segments(&path).iter().filter(|file| with_kills(file)).map(|file| spoil_kills(file)).count();
    assert_eq!(state(&read_only(&path).unwrap().snapshot()).0, right.0, "{spoiled} spoiled");
}

/// Where the listed file is gone and others stand in for it, what is superseded in them is read from kills.
#[test]
fn files_that_stand_in_for_a_listed_one_are_not_those_its_bitmap_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.create_checkpoint("pin").unwrap();
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
    copy_tree(&path, &old);
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

/// The bytes of the manifest's record of bitmaps.
fn live_record(path: &Path) -> Option<Vec<u8>> {
    let manifest = fs::read(path.join("MANIFEST")).unwrap();
    let name = manifest.windows(13).position(|bytes| bytes == b"vecstore.live")? + 13;
    let len = u64::from_le_bytes(manifest[name..name + 8].try_into().unwrap()) as usize;
    Some(manifest[name + 8..name + 8 + len].to_vec())
}

#[test]
fn backups_and_restored_stores_come_without_and_get_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup, restored) = (dir.path().join("s"), dir.path().join("b"), dir.path().join("r"));
    let store = small(&path);
    let right = state(&store.snapshot());
    store.backup(&backup).unwrap();
    vecstore::restore(&backup, &restored).unwrap();
    for copy in [&backup, &restored] {
        assert!(!copy.join("live").exists() && live_record(copy).is_none());
        assert_eq!(state(&read_only(copy).unwrap().snapshot()), right);
        assert_whole(copy);
    }
    // Opening a backup and closing it changes nothing.
    options().open(&backup).unwrap().close().unwrap();
    assert!(live_record(&backup).is_none());
    store.backup(&backup).unwrap();
    let store = options().open(&restored).unwrap();
    put(&store, &["z"], 1.0);
    store.close().unwrap();
    assert_eq!(bitmaps(&restored).len(), 2);
    assert_whole(&restored);
    // Straight from the store, which has bitmaps.
    let again = dir.path().join("again");
    vecstore::restore(&restored, &again).unwrap();
    assert!(live_record(&again).is_none());
    assert_whole(&again);
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
    // An unreadable checkpoint stops all removal.
    let store = small(&dir.path().join("t"));
    let path = dir.path().join("t");
    store.create_checkpoint("x").unwrap();
    let before = bitmaps(&path);
    fs::write(path.join("checkpoints/x"), "nothing").unwrap();
    put(&store, &["a", "d"], 1.0);
    store.checkpoint().unwrap();
    assert!(before.iter().all(|file| file.exists()) && bitmaps(&path).len() > before.len());
    assert!(!vecstore::verify(&path, |_| {}).unwrap().is_whole(), "the checkpoint is damaged");
}

/// Bitmaps cost a flush each, so checkpoints that come by themselves wait until they are worth it.
#[test]
fn a_writer_that_never_closes_leaves_no_more_than_some_kills_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let replace = |keys: std::ops::Range<u32>| {
        let mut batch = store.batch();
        keys.for_each(|key| batch.push(key.to_le_bytes(), &[key as f32, 1.0]).unwrap());
        store.append(batch, OnDuplicate::Replace).unwrap();
    };
    replace(0..70_000);
    replace(0..1_000);
    for key in 0..62 {
        replace(key..key + 1);
    }
    assert_eq!(store.snapshot().segments().count(), 64);
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new(), "a checkpoint came by, and left 1,062 kills");
    replace(0..70_000);
    for key in 0..63 {
        replace(key..key + 1);
    }
    assert!(bitmaps(&path).len() > 60, "they were too many");
    let right = state(&store.snapshot());
    let copy = dir.path().join("copy");
    copy_tree(&path, &copy);
    spoil_kills(&segments(&copy)[64]);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// Random work on two handles; after each step a reader with bitmaps, one without, and the writer say the same.
#[test]
fn with_and_without_bitmaps_a_store_says_the_same() {
    let mut with = 0;
    for seed in 0..6 {
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let (path, bare) = (dir.path().join("s"), dir.path().join("bare"));
        let mut stores = [create(&path), options().open(&path).unwrap()];
        for step in 0..40u32 {
            let at = random.below(2) as usize;
            let store = &stores[at];
            let key = |random: &mut Random| format!("{}", random.below(25));
            match random.below(16) {
                0..7 => {
                    let keys: Vec<String> = (0..1 + random.below(4)).map(|_| key(&mut random)).collect();
                    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    put(store, &keys, step as f32);
                }
                7..9 => {
                    let keys: Vec<String> = (0..3).map(|_| key(&mut random)).collect();
                    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    store.delete(&keys).unwrap();
                }
                9 => {
                    let mut batch = store.batch();
                    let number = random.below(25);
                    batch
                        .push(number.to_string(), &vec![step as f32; 2 * (1 + number as usize % 4)])
                        .unwrap();
                    batch.push_empty(format!("empty {number}"), b"").unwrap();
                    batch.push_rejected(format!("rejected {number}"), "bad").unwrap();
                    store.append(batch, OnDuplicate::Replace).unwrap();
                }
                10..12 => store.checkpoint().unwrap(),
                12 => drop(store.compact().unwrap()),
                13 => drop(store.compact_full().unwrap()),
                14 => store.set_setting("step", &step.to_string()).unwrap(),
                _ => stores[at] = options().open(&path).unwrap(),
            }
            let right = state(&stores[at].refresh().unwrap());
            with += usize::from(!bitmaps(&path).is_empty());
            let found = state(&read_only(&path).unwrap().snapshot());
            assert_eq!(found.0, right.0, "seed {seed}, step {step}");
            assert_eq!(found.2, right.2, "seed {seed}, step {step}");
            copy_tree(&path, &bare);
            let _ = fs::remove_dir_all(bare.join("live"));
            let without = state(&read_only(&bare).unwrap().snapshot());
            assert_eq!(without, found, "seed {seed}, step {step}");
            fs::remove_dir_all(&bare).unwrap();
            assert_whole(&path);
        }
    }
    assert!(with > 60, "bitmaps were there in {with} steps");
}

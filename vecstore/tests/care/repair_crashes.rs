//! Interrupted repairs: by a power cut after any change, in any state the disk may leave, and by any failing
//! call. A second repair gives the result of an undisturbed one, and every damaged byte still exists.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use std::sync::{Arc, Mutex};

use crate::sim::crash::{Rng, digest};
use crate::sim::crashes::in_parallel;
use crate::sim::run::{Do, Run, STORE, options};
use crate::sim::tier::{full_or, is_full};
use crate::sim::{Fault, Node, SimFs};
use vecstore::vfs::Vfs;
use vecstore::{Progress, RepairOptions};

/// Combinations of fates tried after each change: in full, and in plain `cargo test`.
const COMBINATIONS: (usize, usize) = (32, 4);
/// In plain `cargo test`, this many failing calls are left out for each one that is tried.
const FAILING: usize = 4;

/// Suffix in the names of damage cases that lose no entry.
const NO_LOSS: &str = "nothing is lost";

/// The expected result: live entries, and the names of versions.
type Right = (Contents, Vec<String>);

/// Live entries by key: kind, rows, reason and payload, address.
type Contents = BTreeMap<Vec<u8>, (String, Vec<u32>, Vec<u8>, String)>;

fn contents(fs: &SimFs) -> Result<Contents, String> {
    let store = options(fs).for_reading().open(STORE).map_err(|error| error.to_string())?;
    let snapshot = store.snapshot();
    let mut contents = Contents::new();
    for entry in snapshot.iter() {
        let entry = entry.map_err(|error| error.to_string())?;
        let rows = entry.to_f32().map_err(|error| error.to_string())?.iter().map(|x| x.to_bits()).collect();
        let noted = [entry.reason().unwrap_or_default().as_bytes(), entry.payload()].concat();
        let value = (entry.kind().to_string(), rows, noted, entry.address().to_string());
        let twice = contents.insert(entry.key().to_vec(), value);
        if twice.is_some() {
            return Err(format!("{:?} is there twice", String::from_utf8_lossy(entry.key())));
        }
    }
    Ok(contents)
}

/// Names of the versions, each of which must be readable. (How many entries of a damaged version are left
/// depends on whether bitmaps were readable: they tell which entries were superseded later.)
fn named(fs: &SimFs) -> Result<Vec<String>, String> {
    let store = options(fs).for_reading().open(STORE).map_err(|error| error.to_string())?;
    let all = store.versions().map_err(|error| error.to_string())?;
    let opened = |name: String| {
        let opened = options(fs).for_reading().at_version(&name).open(STORE);
        let opened = opened.map_err(|error| error.to_string())?;
        opened.snapshot().iter().try_for_each(|entry| entry.map(drop)).map_err(|error| error.to_string())?;
        Ok(name)
    };
    all.into_iter().map(|version| opened(version.name)).collect()
}

/// A store with merged and single segments, a version, bitmaps, and commits that the manifest does
/// not list.
fn image() -> Vec<Node> {
    let mut run = Run::new(SimFs::new());
    for action in [
        Do::Create(0),
        Do::Append(0),
        Do::Replace(0),
        Do::Name(0),
        Do::Append(0),
        Do::FullMerge(0),
        Do::Replace(0),
        Do::Delete(0),
        Do::Checkpoint(0),
        Do::Append(0),
        Do::Replace(0),
    ] {
        run.act(action);
    }
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    let history = run.fs.history();
    history.image(history.log.len(), &Default::default(), &mut Rng(3))
}

/// Inode numbers of the store's files by path, without lock files.
fn files(image: &[Node]) -> BTreeMap<PathBuf, usize> {
    let mut files = BTreeMap::new();
    let mut open = vec![(PathBuf::from("/"), 0)];
    while let Some((path, at)) = open.pop() {
        match &image[at] {
            Node::File(_) => drop(files.insert(path, at)),
            Node::Dir(names) => open.extend(names.iter().map(|(name, ino)| (path.join(name), *ino))),
        }
    }
    files.retain(|path, _| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOCK")));
    files
}

fn bytes(image: &[Node], path: &Path) -> Arc<Vec<u8>> {
    let Node::File(bytes) = &image[files(image)[path]] else { panic!("a file") };
    Arc::clone(bytes)
}

fn flip(image: &mut [Node], path: &Path, at: usize) {
    let ino = files(image)[path];
    let Node::File(bytes) = &mut image[ino] else { panic!("a file") };
    let bytes = Arc::make_mut(bytes);
    bytes[at] ^= 4;
}

fn remove(image: &mut [Node], path: &Path) {
    let mut at = 0;
    for part in path.parent().unwrap().components().skip(1) {
        let Node::Dir(names) = &image[at] else { panic!("a directory") };
        at = names[part.as_os_str()];
    }
    let Node::Dir(names) = &mut image[at] else { panic!("a directory") };
    names.remove(path.file_name().unwrap());
}

/// Damaged images, each with the name of its damage.
fn damaged(whole: &[Node]) -> Vec<(String, Vec<Node>)> {
    let paths: Vec<PathBuf> = files(whole).into_keys().collect();
    let mut all = Vec::new();
    let mut case = |what: String, damage: &dyn Fn(&mut Vec<Node>)| {
        let mut image = whole.to_vec();
        damage(&mut image);
        all.push((what, image));
    };
    for path in &paths {
        let len = bytes(whole, path).len();
        // In a segment, a row or the bytes behind the rows; in any other file, the middle.
        case(format!("{} hit", path.display()), &|image| flip(image, path, 4097.min(len / 2)));
        case(format!("{} gone", path.display()), &|image| remove(image, path));
    }
    let segments: Vec<&PathBuf> =
        paths.iter().filter(|path| path.extension().is_some_and(|e| e == "npy")).collect();
    for path in &segments {
        case(format!("{} longer, {NO_LOSS}", path.display()), &|image| {
            let ino = files(image)[*path];
            let Node::File(bytes) = &mut image[ino] else { panic!("a file") };
            Arc::make_mut(bytes).extend([9; 100]);
        });
    }
    case("all segments hit, and the manifest".to_owned(), &|image| {
        segments.iter().for_each(|path| flip(image, path, 4097));
        flip(image, &Path::new(STORE).join("MANIFEST"), 134);
    });
    case(format!("the last two swapped, {NO_LOSS}"), &|image| {
        let [.., a, b] = segments.as_slice() else { panic!("two segments") };
        let (a, b) = (files(image)[*a], files(image)[*b]);
        image.swap(a, b);
    });
    all
}

/// Repairs the state that an interrupted repair left, and compares it with the result of an undisturbed one.
fn repaired(fs: &SimFs, right: &Right, hit: &[Arc<Vec<u8>>]) -> Result<(), String> {
    // Before the second repair, a reader gets an error or correct entries.
    if let Ok(found) = contents(fs) {
        for (key, value) in &found {
            if right.0.get(key).is_some_and(|right| right.3 == value.3 && right != value) {
                return Err(format!("{:?} was read wrong", String::from_utf8_lossy(key)));
            }
        }
    }
    vecstore::repair_on(fs, Path::new(STORE), RepairOptions::new())
        .map_err(|error| format!("repairing again: {error}"))?;
    let report =
        vecstore::verify_on(fs, Path::new(STORE), &Progress::new()).map_err(|error| error.to_string())?;
    if let Some(fault) = report.faults.first() {
        return Err(format!("not whole after it: {fault}"));
    }
    let found = (contents(fs)?, named(fs)?);
    if found != *right {
        return Err(format!("found {found:?}\nright {right:?}"));
    }
    let history = fs.history();
    let image = history.image(history.log.len(), &Default::default(), &mut Rng(1));
    let there: HashSet<Arc<Vec<u8>>> = files(&image)
        .values()
        .filter_map(|ino| match &image[*ino] {
            Node::File(bytes) => Some(Arc::clone(bytes)),
            Node::Dir(_) => None,
        })
        .collect();
    match hit.iter().all(|bytes| there.contains(bytes)) {
        true => Ok(()),
        false => Err("a damaged file was deleted".to_owned()),
    }
}

/// Contents of the files that differ from those of the whole store.
fn what_was_hit(whole: &[Node], image: &[Node]) -> Vec<Arc<Vec<u8>>> {
    let before = files(whole);
    let hit = files(image).into_iter().filter_map(|(path, ino)| match (&image[ino], &whole[before[&path]]) {
        (Node::File(now), Node::File(then)) if now != then => Some(Arc::clone(now)),
        _ => None,
    });
    hit.collect()
}

/// Cases tried so far.
#[derive(Debug, Default)]
struct Tally {
    states: HashSet<u64>,
    tried: usize,
    faults: usize,
}

#[test]
fn an_interrupted_repair_is_repaired() {
    let whole = image();
    let before = contents(&SimFs::from_image(whole.clone())).unwrap();
    let cases = damaged(&whole);
    let tally = Mutex::new(Tally::default());
    in_parallel(|number| {
        let Some((what, image)) = cases.get(number) else { return false };
        let hit = what_was_hit(&whole, image);
        let mut mine = Tally::default();
        let right = crashes(what, image, &before, &hit, &mut mine);
        failing_calls(what, image, &hit, &right, &mut mine);
        let mut all = tally.lock().unwrap();
        all.states.extend(mine.states);
        all.tried += mine.tried;
        all.faults += mine.faults;
        true
    });
    let Tally { states, tried, faults } = tally.into_inner().unwrap();
    println!(
        "repair: {} damages, {} distinct crash states ({tried} tried), {faults} failing calls",
        cases.len(),
        states.len()
    );
    assert!(states.len() > full_or(500, 300), "{} states", states.len());
}

/// Tries every state that a power cut may leave during a repair. Returns the expected result.
fn crashes(what: &str, image: &[Node], before: &Contents, hit: &[Arc<Vec<u8>>], tally: &mut Tally) -> Right {
    let fs = SimFs::from_image(image.to_vec());
    let report = vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let history = fs.history();
    let read = contents(&fs).and_then(|contents| Ok((contents, named(&fs)?)));
    let right = read.unwrap_or_else(|error| panic!("{what}: {error}\n{report:#?}"));
    if what.ends_with(NO_LOSS) {
        assert_eq!(right.0, *before, "{what}: {report:#?}");
    }
    repaired(&fs, &right, hit).unwrap_or_else(|error| panic!("{what}: {error}\n{report:#?}"));
    let mut rng = Rng(7);
    for prefix in 0..=history.log.len() {
        for fates in history.fates(prefix, full_or(COMBINATIONS.0, COMBINATIONS.1), &mut rng) {
            let left = history.image(prefix, &fates, &mut rng);
            tally.tried += 1;
            if !tally.states.insert(digest(&left)) {
                continue;
            }
            repaired(&SimFs::from_image(left.clone()), &right, hit)
                .unwrap_or_else(|error| panic!("{what}: {error}\n{}", history.tell(prefix, &fates)));
            // After one state in sixteen, the second repair is interrupted too.
            if !tally.states.len().is_multiple_of(16) {
                continue;
            }
            let second = SimFs::from_image(left);
            let done = vecstore::repair_on(&second, Path::new(STORE), RepairOptions::new());
            done.unwrap_or_else(|error| panic!("{what}: {error}"));
            let second = second.history();
            let at = rng.below(second.log.len() + 1);
            for fates in second.fates(at, 4, &mut rng) {
                let left = second.image(at, &fates, &mut rng);
                tally.tried += 1;
                tally.states.insert(digest(&left));
                repaired(&SimFs::from_image(left), &right, hit).unwrap_or_else(|error| {
                    panic!("{what}, interrupted twice: {error}\n{}", second.tell(at, &fates))
                });
            }
        }
    }
    right
}

/// Lets each call that changes the disk fail, once or from then on, and some of the calls that read.
fn failing_calls(what: &str, image: &[Node], hit: &[Arc<Vec<u8>>], right: &Right, tally: &mut Tally) {
    let fs = SimFs::from_image(image.to_vec());
    vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new()).unwrap();
    let mut turn = what.len();
    for (at, call) in fs.calls().iter().enumerate() {
        let reads = matches!(call.what, "map" | "read" | "metadata" | "list" | "read record");
        for (errno, lasting) in [(5, false), (28, true)] {
            let may_skip = at % 3 != 0 && !call.path.to_string_lossy().contains("/live/");
            if reads && (lasting || may_skip) {
                continue;
            }
            turn += 1;
            if !is_full() && !turn.is_multiple_of(FAILING + 1) {
                continue;
            }
            let fs = SimFs::from_image(image.to_vec());
            fs.set_fault(Some(Fault { at, errno, lasting }));
            let failed = vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new());
            fs.set_fault(None);
            tally.faults += 1;
            if let Err(error) = &failed {
                assert!(error.to_string().contains(STORE), "{what}, call {at}: {error}");
            }
            repaired(&fs, right, hit).unwrap_or_else(|error| {
                panic!("{what}, error {errno} at call {at} ({call:?}): {error}\n{failed:?}")
            });
        }
    }
}

/// A commit whose directory flush failed may be visible now and gone after a power cut, whatever later
/// flushes report. A repair that lists it has to write it anew.
#[test]
fn a_commit_in_doubt_is_written_anew() {
    let image = image();
    let mut in_doubt = 0;
    for at in 0..400 {
        let fs = SimFs::from_image(image.clone());
        let store = options(&fs).open(STORE).unwrap();
        let at = fs.calls().len() + at;
        fs.set_fault(Some(Fault { at, errno: 5, lasting: false }));
        let mut batch = store.batch();
        batch.push("in doubt", &[1.0f32, 2.0]).unwrap();
        let outcome = store.append(&mut batch, vecstore::OnDuplicate::Skip);
        fs.set_fault(None);
        drop(store);
        if fs.calls().len() <= at {
            break;
        }
        if !matches!(outcome, Err(vecstore::Error::OutcomeUnknown { .. })) {
            continue;
        }
        in_doubt += 1;
        let gone = Path::new(STORE).join("segments/0000000004-0000000004.0.npy");
        fs.remove_file(&gone).unwrap();
        vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new()).unwrap();
        let shown = contents(&fs).unwrap();
        let history = fs.history();
        let mut rng = Rng(5);
        for fates in history.fates(history.log.len(), 64, &mut rng) {
            let after = SimFs::from_image(history.image(history.log.len(), &fates, &mut rng));
            let tell = || history.tell(history.log.len(), &fates);
            assert_eq!(contents(&after).as_ref(), Ok(&shown), "call {at}\n{}", tell());
        }
    }
    assert!(in_doubt > 0, "no flush of a directory failed");
}

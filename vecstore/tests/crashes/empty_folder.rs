//! An empty folder becomes a store where it is, because it may be a mount point: with or without
//! `lost+found`, after an interrupted creation, and with power cuts at any moment. Foreign files stay.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Barrier};

use crate::common::small::{contents, put};
use crate::common::{assert_whole, on_demand};
use crate::sim::crash::Rng;
use crate::sim::crashes::{COMBINATIONS, Crashes, Tally};
use crate::sim::run::{Do, Run, STORE, options};
use crate::sim::{Fault, Node, SimFs};
use vecstore::{Error, Store, StoreConfig};

fn create(path: &Path) -> vecstore::Result<Store> {
    on_demand().create(path, StoreConfig::new(2))
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_empty_folder_becomes_a_store_where_it_is() {
    for found in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::create_dir(&path).unwrap();
        if found {
            fs::create_dir(path.join("lost+found")).unwrap();
            fs::write(path.join("lost+found/#12"), "of the file system").unwrap();
        }
        let before = fs::metadata(&path).unwrap().ino();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        let store = create(&path).unwrap();
        put(&store, "a", 1.0);
        store.close().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        assert_eq!(names(dir.path()), ["s"]);
        assert_eq!(contents(&Store::open(&path).unwrap().snapshot()).len(), 1);
        assert_whole(&path);
        if found {
            assert_eq!(fs::read(path.join("lost+found/#12")).unwrap(), b"of the file system");
        }
        assert!(matches!(create(&path).unwrap_err(), Error::AlreadyExists { .. }));
    }
}

#[test]
fn creation_replaces_its_own_leftovers_and_refuses_foreign_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("left");
    fs::create_dir_all(path.join("segments")).unwrap();
    fs::write(path.join("LOCK.manifest"), [7; 256]).unwrap();
    fs::write(path.join("LOCK"), "").unwrap();
    fs::write(path.join("tmp-manifest-00"), "half a man").unwrap();
    assert!(matches!(Store::open(&path).unwrap_err(), Error::NotFound { .. }));
    put(&create(&path).unwrap(), "a", 1.0);
    assert_whole(&path);
    assert_eq!(names(&path), ["LOCK", "LOCK.manifest", "LOCK.turn", "MANIFEST", "segments"]);

    for (at, (name, text)) in
        [("notes", "x"), ("LOCK", "4711\n"), ("segments/x", "x"), ("MANIFEST", "x"), (".hidden", "")]
            .into_iter()
            .enumerate()
    {
        let path = dir.path().join(at.to_string());
        let file = path.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        let before = names(&path);
        let error = create(&path).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{name}: {error}");
        assert_eq!((names(&path), fs::read_to_string(&file).unwrap()), (before, text.to_owned()), "{name}");
        assert_eq!(names(dir.path()).iter().filter(|name| name.contains("creating")).count(), 0);
    }
}

#[test]
fn exactly_one_of_several_creators_wins() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = dir.path().join(round.to_string());
        fs::create_dir(&path).unwrap();
        let together = Barrier::new(4);
        let won: usize = std::thread::scope(|scope| {
            let create = || {
                together.wait();
                match create(&path) {
                    Ok(store) => drop(put(&store, "mine", 1.0)),
                    Err(Error::AlreadyExists { .. }) => return 0,
                    Err(error) => panic!("{error}"),
                }
                1
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(won, 1);
        assert_eq!(contents(&Store::open(&path).unwrap().snapshot()).len(), 1);
    }
}

/// Says so and ends if this user may not mount a file system.
#[cfg(feature = "cli")]
#[test]
fn a_mount_point_becomes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::create_dir(&path).unwrap();
    let script = "mount -t tmpfs none \"$1\" && echo mounted && mkdir \"$1/lost+found\" && \
                  \"$2\" create \"$1\" --dim 2 && \"$2\" verify \"$1\" && ls -A \"$1/..\" \"$1/lost+found\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]);
    let output = command.arg(&path).arg(env!("CARGO_BIN_EXE_vecstore")).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    if !said.starts_with("mounted\n") {
        println!("not tried: this user may not mount anything: {said}");
        return;
    }
    let beside = format!("{0}/..:\ns\n\n{0}/lost+found:\n", path.display());
    assert!(said.contains("\nwhole: ") && said.ends_with(&beside), "{said}");
}

/// A disk with a folder for the store that is empty or has only the `lost+found` of its file system.
fn disk(found: bool) -> SimFs {
    let dir = |names: &[(&str, usize)]| {
        Node::Dir(names.iter().map(|(name, ino)| (OsString::from(name), *ino)).collect::<BTreeMap<_, _>>())
    };
    let store = if found { dir(&[("lost+found", 3)]) } else { dir(&[]) };
    let file = Node::File(Arc::new(b"of the file system".to_vec()));
    SimFs::from_image(vec![dir(&[("d", 1)]), dir(&[("s", 2)]), store, dir(&[("#12", 4)]), file])
}

fn assert_found(fs: &SimFs, found: bool) {
    if found {
        use vecstore::vfs::Vfs;
        assert_eq!(fs.read(Path::new("/d/s/lost+found/#12"), 100).unwrap(), b"of the file system");
    }
}

/// After a power cut at any moment of the creation there is a whole store, or the next creation makes one;
/// also after a second power cut. Acknowledged changes are there.
#[test]
fn a_creation_in_an_empty_folder_survives_every_power_cut() {
    let tally = Tally::default();
    for found in [false, true] {
        let mut run = Run::new(disk(found));
        [Do::Create(0), Do::Append(0), Do::Close(0)].into_iter().for_each(|action| run.act(action));
        assert!(run.errors.is_empty(), "{:?}", run.errors);
        assert_eq!(run.fs.names("/d"), ["s"]);
        let history = run.fs.history();
        let mut rng = Rng(1);
        for prefix in 0..=history.log.len() {
            for fates in history.fates(prefix, 16, &mut rng) {
                let fs = SimFs::from_image(history.image(prefix, &fates, &mut rng));
                match options(&fs).create(STORE, StoreConfig::new(4)) {
                    Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                    Err(error) => panic!("{error}\n{}", history.tell(prefix, &fates)),
                }
                assert!(options(&fs).open(STORE).is_ok());
                assert_found(&fs, found);
            }
        }
        Crashes::new("a creation in an empty folder", 1, 1, COMBINATIONS, &tally).everywhere(run, 0..);
    }
    tally.line("a creation in an empty folder");
    assert!(tally.distinct() > 100, "{}", tally.distinct());
}

/// A process is killed before each call of the creation, and another process goes on; then the power fails.
#[test]
fn a_killed_creation_is_completed_by_the_next() {
    let tally = Tally::default();
    let mut whole = Run::new(disk(true));
    whole.act(Do::Create(0));
    for at in 0..whole.fs.calls().len() {
        let mut run = Run::new(disk(true));
        run.fs.die_at(at);
        let survivor = run.fs.other_process();
        run.act(Do::Create(0));
        run.errors.clear();
        let killed = survivor.changes();
        let mut run = run.into_process(survivor);
        run.act(Do::Open(2));
        if run.stores.is_empty() {
            let (_, error) = run.errors.remove(0);
            assert!(matches!(error, Error::NotFound { .. }), "killed before call {at}: {error}");
            run.act(Do::Create(2));
        }
        run.act(Do::Append(2));
        assert!(run.errors.is_empty(), "killed before call {at}: {:?}", run.errors);
        assert_found(&run.fs, true);
        let name = format!("killed before call {at}");
        Crashes::new(&name, at as u64, 0, COMBINATIONS, &tally).everywhere(run, killed..);
    }
    tally.line("a creation that was killed");
}

/// Each call of the creation fails: the folder counts as empty, and the next creation gives every name anew.
#[test]
fn a_failed_creation_is_completed_by_the_next() {
    let tally = Tally::default();
    let mut whole = Run::new(disk(true));
    whole.act(Do::Create(0));
    let calls = whole.fs.calls();
    // From linux/errno.h: EIO, ENOSPC, EACCES.
    for (at, errno) in (0..calls.len()).flat_map(|at| [5, 28, 13].map(|errno| (at, errno))) {
        for lasting in [false, true] {
            let mut run = Run::new(disk(true));
            run.fs.set_fault(Some(Fault { at, errno, lasting }));
            run.act(Do::Create(0));
            let told = format!("error {errno} of call {at}, {:?}, lasting: {lasting}", calls[at]);
            run.fs.set_fault(None);
            let failed = !run.errors.is_empty();
            run.errors.clear();
            // If every later call fails, the name of the manifest cannot be removed either.
            if lasting && failed && run.fs.exists("/d/s/MANIFEST") {
                continue;
            }
            if failed {
                run.act(Do::Open(0));
                // The store exists if only a call that looks at it failed.
                if let Some((_, error)) = run.errors.pop() {
                    assert!(matches!(error, Error::NotFound { .. }), "{told}: {error}");
                    run.act(Do::Create(0));
                }
            }
            run.act(Do::Append(0));
            assert!(run.errors.is_empty(), "{told}: {:?}", run.errors);
            assert_found(&run.fs, true);
            Crashes::new(&told, at as u64, 0, 16, &tally).everywhere(run, 0..);
        }
    }
    tally.line("a creation that failed");
}

/// A creation that fails removes its manifest, so no other process may commit before the creation has ended.
#[test]
fn no_process_commits_to_a_store_that_is_being_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::create_dir(&path).unwrap();
    let (store, tried) = (path.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let told = Arc::clone(&tried);
    let hooked = crate::common::hooked::Hooked::new(move |call, at| {
        // The first flush after MANIFEST has its name.
        if call == "flush"
            && at == store
            && store.join("MANIFEST").exists()
            && told.lock().unwrap().is_empty()
        {
            let other = on_demand().lock_timeout(std::time::Duration::ZERO).open(&store).unwrap();
            let mut batch = other.batch();
            batch.push("theirs", &[1.0f32, 2.0]).unwrap();
            told.lock().unwrap().push(other.append(&mut batch, vecstore::OnDuplicate::Error));
        }
    });
    let store = on_demand().vfs(hooked).create(&path, StoreConfig::new(2)).unwrap();
    let is_busy = |tried: &vecstore::Result<_>| matches!(tried, Err(Error::Busy { .. }));
    assert!(matches!(&tried.lock().unwrap()[..], [only] if is_busy(only)), "it did not wait");
    put(&store, "ours", 1.0);
}

/// Another process holds LOCK.turn: it may wait for the lock of a store whose creation failed and was undone.
#[test]
fn a_creation_fails_while_another_process_holds_the_turn_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::create_dir(&path).unwrap();
    create(&path).unwrap().close().unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    let turn = fs::File::options().write(true).open(path.join("LOCK.turn")).unwrap();
    turn.lock().unwrap();
    let error = create(&path).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("LOCK.turn"), "{error}");
    assert!(!path.join("MANIFEST").exists());
    drop(turn);
    put(&create(&path).unwrap(), "a", 1.0);
}

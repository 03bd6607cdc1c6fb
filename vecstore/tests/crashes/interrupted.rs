//! Single calls of a real process: writes that write only a part, and calls that a signal interrupts. The
//! first test needs `sh`, the second `strace`; without `strace` it says so and ends.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::{assert_one_passed, one_test};
use vecstore::{Error, OnDuplicate, OpenOptions, Store, StoreConfig};

/// Variable with the path of the store, for a process that a test starts.
const STORE: &str = "VECSTORE_INTERRUPTED_STORE";
/// Elements per vector: a batch takes a little more than 64 KiB.
const DIM: usize = 16 << 10;
/// Limit on the bytes of a file in a started process: in the middle of the rows, and no multiple of a block.
const LIMIT: u64 = 40 << 10;

fn put(store: &Store, key: &str) -> vecstore::Result<vecstore::Appended> {
    let mut batch = store.batch();
    batch.push(key, &vec![1.0f32; DIM])?;
    store.append(&mut batch, OnDuplicate::Error)
}

fn assert_holds(path: &Path, keys: &[&str]) {
    let report = vecstore::verify(path).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
    let store = Store::open(path).unwrap();
    assert_eq!(store.snapshot().missing(keys).unwrap(), Vec::<usize>::new());
    assert_eq!(store.snapshot().iter().count(), keys.len());
}

#[test]
#[ignore = "started by the test below, in a process whose files may not grow"]
fn limited() {
    let path = std::env::var_os(STORE).expect("it says where the store is");
    let store = Store::open(&path).unwrap();
    let error = put(&store, "too long").unwrap_err();
    let Error::Io { path: file, cause: source, .. } = &error else { panic!("{error}") };
    assert!(file.starts_with(&path) && source.kind() == std::io::ErrorKind::FileTooLarge, "{error}");
    let said = error.to_string();
    assert!(said.contains("the limit on the size of files is ") && said.contains("ulimit -f"), "{said}");
    assert_eq!(store.snapshot().iter().count(), 1);
}

/// A write that reaches the limit of a file's length writes the part that fits; the write of the rest fails.
#[test]
fn a_partial_write_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    put(&Store::create(&path, StoreConfig::new(DIM)).unwrap(), "before").unwrap();
    // POSIX counts blocks of 512 bytes, some shells count KiB: twice as much, but still too little.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", LIMIT / 1024);
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .args(one_test("interrupted::limited"))
        .env(STORE, &path)
        .output()
        .unwrap();
    assert_one_passed("with a limit", &output);
    for entry in std::fs::read_dir(path.join("segments")).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_name().to_string_lossy().ends_with(".npy"), "{:?} was left", entry.file_name());
        assert!(entry.metadata().unwrap().size() > LIMIT);
    }
    put(&Store::open(&path).unwrap(), "after").unwrap();
    assert_holds(&path, &["before", "after"]);
}

#[test]
#[ignore = "started by the test below, in a process whose calls are interrupted"]
fn interrupted() {
    let path = std::env::var_os(STORE).expect("it says where the store is");
    let store = OpenOptions::new().merge_policy(vecstore::MergePolicy::OnDemand).open(&path).unwrap();
    let flush = std::env::var("VECSTORE_INTERRUPTED_FLUSH").is_ok();
    let put = put(&store, "a");
    if flush {
        let Err(Error::Io { cause: source, .. }) = &put else { panic!("{put:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::Interrupted);
        self::put(&store, "a").expect("the same handle goes on, with another file");
    } else {
        put.expect("an interrupted call is made again");
    }
    store.close().unwrap();
}

#[test]
fn an_interrupted_call_is_repeated_unless_it_is_a_flush() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("not tried: strace is not installed");
        return;
    }
    let mut interrupted = 0;
    for call in ["open", "openat", "write", "pwrite64", "fsync", "flock", "statfs", "pread64", "fdatasync"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        put(&Store::create(&path, StoreConfig::new(DIM)).unwrap(), "before").unwrap();
        let log = dir.path().join("log");
        let mut strace = Command::new("strace");
        // Interrupts the first of the calls on files of the store.
        strace.args([
            "-f",
            "-e",
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:error=EINTR:when=1"),
        ]);
        for part in ["", "segments", "LOCK", "LOCK.turn", "MANIFEST"] {
            strace.arg("-P").arg(path.join(part));
        }
        strace.arg("-o").arg(&log).args(one_test("interrupted::interrupted")).env(STORE, &path);
        if call == "fdatasync" {
            // The name of the temporary file is not known beforehand, so no path is given.
            strace = Command::new("strace");
            strace.args(["-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EINTR:when=1", "-o"]);
            strace.arg(&log).args(one_test("interrupted::interrupted")).env(STORE, &path);
            strace.env("VECSTORE_INTERRUPTED_FLUSH", "1");
        }
        let output = strace.output().unwrap();
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        if log.contains("ptrace") || output.status.code() == Some(1) && log.is_empty() {
            println!("not tried: strace may not trace here: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        assert_one_passed(call, &output);
        interrupted += log.matches("INJECTED").count();
        assert_holds(&path, &["before", "a"]);
    }
    println!("interrupted calls: {interrupted}");
    assert!(interrupted >= 5, "{interrupted}");
}

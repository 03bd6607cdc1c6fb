//! A limit on file sizes: the command ends with an error that names the limit, instead of being ended by
//! SIGXFSZ.

use std::process::Command;

use vecstore::{OnDuplicate, Store, StoreConfig};

const DIM: usize = 16 << 10;

#[test]
fn the_command_outlives_the_signal_and_names_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = Store::create(&path, StoreConfig::new(DIM)).unwrap();
    let mut batch = store.batch();
    batch.push("long", &vec![1.0f32; DIM]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
    // `ulimit -f` counts blocks of 512 or of 1024 bytes, depending on the shell.
    let restore = |limit: &str| {
        let script = format!("ulimit -f {limit}; exec \"$@\"");
        let mut sh = Command::new("sh");
        sh.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_vecstore"), "restore"]).arg(&path).arg(&copy);
        sh.output().unwrap()
    };
    let output = restore("16");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{:?}: {said}", output.status);
    for part in ["cannot copy the segment", "the limit on the size of files is ", "(ulimit -f)"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!copy.exists(), "nothing is left");
    assert!(restore("unlimited").status.success());
}

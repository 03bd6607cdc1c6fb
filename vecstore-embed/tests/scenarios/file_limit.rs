//! Where files may not grow beyond a limit a run ends, and says which: it neither dies of the signal, nor
//! waits for room that is there.

use std::process::Command;

use vecstore::Reader;

use crate::command::{run_tiny, said};
use crate::common::{Place, contents};

#[test]
fn a_limit_on_the_size_of_files_ends_the_run_with_what_it_is() {
    let place = Place::new();
    let (photos, store) = (place.photos(40), place.join("photos.vecs"));
    let whole = said(run_tiny(&photos, &store, &["--shard", "0/2"]));
    assert_eq!(whole.code, 0, "{}", whole.err);
    let before = contents(&store);
    for trap in ["", "trap '' XFSZ; "] {
        let run = run_tiny(&photos, &store, &["--commit-rows", "1000"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("{trap}ulimit -f 8; exec \"$@\""), "sh"]).arg(run.get_program());
        limited.args(run.get_args()).env_remove("ORT_DYLIB_PATH").env_remove("RUST_LOG");
        let said = said(limited);
        assert_eq!(said.code, 74, "{}", said.err);
        for part in ["saving failed once", "the limit on the size of files is", "ulimit -f"] {
            assert!(said.err.contains(part), "{part}: {}", said.err);
        }
        assert!(!said.err.contains("the run waits"), "{}", said.err);
        assert_eq!(contents(&store), before);
    }
    assert_eq!(said(run_tiny(&photos, &store, &[])).code, 0, "without the limit it goes on");
    assert_eq!(Reader::open(&store).unwrap().snapshot().totals().with_rows, 40);
}

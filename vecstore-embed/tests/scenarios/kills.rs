//! `kill -9` at moments nobody chose, again and again.
//!
//! Small by itself. `scripts/kill-embed` runs it with thousands of pictures: `VECSTORE_EMBED_PHOTOS` names a folder
//! of them, `VECSTORE_EMBED_KILLS` says how often to kill.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use vecstore::Store;

use crate::command::{run, wait_for_a_commit};
use crate::common::{Place, assert_same, contents};

fn finish(photos: &Path, store: &Path) -> ExitStatus {
    run(photos, store, &["--quiet"]).stdout(Stdio::null()).status().unwrap()
}

fn entries(store: &Path) -> u64 {
    let totals = Store::open_read_only(store).map(|store| store.snapshot().totals());
    totals.map_or(0, |totals| totals.entries + totals.rejected)
}

/// The next of a row of numbers from 0 to 1 without a pattern (splitmix64).
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn a_killed_run_goes_on_to_the_same_store() {
    let place = Place::new();
    let (photos, batch) = match env::var_os("VECSTORE_EMBED_PHOTOS") {
        Some(photos) => (PathBuf::from(photos), ["--batch-size=32", "--commit-rows=32"]),
        None => (place.photos(90), ["--batch-size=3", "--commit-rows=3"]),
    };
    let kills: u32 = env::var("VECSTORE_EMBED_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let undisturbed = place.join("undisturbed.vecs");
    let began = Instant::now();
    assert!(finish(&photos, &undisturbed).success());
    let undisturbed_for = began.elapsed();
    let expected = contents(&undisturbed);

    // Half of the time an undisturbed run takes is spread over the kills, so that most of them find work to do. On a machine
    // that others use one run may be much faster than another, and end before it is killed.
    let store = place.join("photos.vecs");
    let longest = undisturbed_for.div_f64(f64::from(kills));
    let seed = began.elapsed().as_nanos() as u64;
    println!("{} inputs, {kills} kills, {undisturbed_for:?} undisturbed, seed {seed}", expected.len());
    let (mut state, mut killed) = (seed, 0);
    for kill in 0..kills {
        let before = entries(&store);
        let mut child =
            run(&photos, &store, &["--quiet", batch[0], batch[1]]).stdout(Stdio::null()).spawn().unwrap();
        // At once after the first commit, when nearly all is left to do.
        if kill == 0 {
            wait_for_a_commit(&store, 0);
        } else {
            thread::sleep(longest.mul_f64(random(&mut state)));
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        let after = entries(&store);
        println!("kill {kill}: {before} entries before, {after} after, {ended}");
        assert!(after >= before && after <= expected.len() as u64, "seed {seed}");
        assert!(ended.success() || ended.code().is_none(), "{ended}; seed {seed}");
        killed += u32::from(ended.code().is_none());
    }
    assert!(killed > 0, "none was killed; seed {seed}");
    assert!(finish(&photos, &store).success());
    assert_same(&contents(&store), &expected);
    let again = run(&photos, &store, &["--json", "--quiet"]).output().unwrap();
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&again["embedded"], &again["already"]), (&0.into(), &expected.len().into()));
}

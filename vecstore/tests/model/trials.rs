//! Random trials: operations of two processes on a store, failing calls, full disks, dying processes and
//! power cuts, in any combination, checked against a map in memory after each act.
//!
//! Plain `cargo test` tries a few trials, the same each time; `VECSTORE_TESTS=full` tries more of them, and
//! `VECSTORE_TESTS=random` as many new ones. `VECSTORE_TRIALS` is their number. Trials that once failed are
//! kept in `regressions/trials.txt` and tried, too; a failure prints the line to add. The fuzz target
//! `operations` uses the same bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use crate::sim::act::{LEN, acts, from_hex, to_hex};
use crate::sim::tier::{full_or, is_random};
use crate::sim::trial::{Tally, run};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Number of trials if everything is tried, and in plain `cargo test`.
const TRIALS: (u32, u32) = (1_500, 250);

/// Runs the trial that the bytes stand for.
fn trial(bytes: &[u8]) -> Result<Tally, String> {
    let acts = acts(bytes);
    let result =
        catch_unwind(AssertUnwindSafe(|| run(&acts))).unwrap_or(Err("see the panic above".to_owned()));
    result.map_err(|wrong| {
        format!("add this line to tests/regressions/trials.txt:\n{}\n{wrong}", to_hex(bytes))
    })
}

#[test]
fn trials_that_once_failed_pass() {
    let lines = include_str!("../regressions/trials.txt").lines();
    let trials: Vec<Vec<u8>> = lines.map(from_hex).filter(|bytes| !bytes.is_empty()).collect();
    assert!(trials.len() >= 3, "{} are read", trials.len());
    for bytes in trials {
        trial(&bytes).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn a_store_agrees_with_a_map_in_every_trial() {
    let wanted = std::env::var("VECSTORE_TRIALS").ok().map(|text| text.parse().expect("a number"));
    let cases = wanted.unwrap_or(full_or(TRIALS.0, TRIALS.1));
    let rng_seed = if is_random() { RngSeed::Random } else { RngSeed::Fixed(1) };
    let config = ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() };
    let all = Mutex::new(Tally::default());
    proptest!(config, |(chosen in prop::collection::vec(any::<[u8; LEN]>(), 1..40))| {
        let tally = trial(&chosen.concat()).map_err(TestCaseError::fail)?;
        *all.lock().expect("no panic") += tally;
    });
    let all = all.into_inner().expect("no panic");
    println!(
        "trials: {cases}, {} operations, {} of them interleaved, {} met faults, {} full disks, {} processes \
         killed, {} \
         power cuts",
        all.operations, all.interleaved, all.faults, all.full, all.kills, all.power_cuts
    );
    let few = cases as usize / 20;
    assert!(
        all.interleaved > few
            && all.faults > few
            && all.full > few
            && all.kills > few
            && all.power_cuts > few
    );
}

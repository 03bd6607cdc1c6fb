//! `vecstore-embed verify`.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanCount;
use serde_json::json;
use vecstore_embed::{runs, verify_sample};

use super::EXIT_FAILED;
use super::model_args::ModelArgs;
use super::output::{Outcome, listed, open_to_read, print, print_json, told};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed verify --store photos.vecs
  vecstore-embed verify --store photos.vecs --sample 1000 --backend onnxruntime
  vecstore-embed verify --store photos.vecs --sample 50 --at-least 0.99999 --json

Chooses stored pictures at random, embeds each again, one at a time, and compares. Pictures that changed
since, or are gone, are passed over and listed. (`vecstore verify` reads every byte of the store instead,
and needs no model.)
Exit codes: 0 all are the same, 1 failed, or some differ, 2 wrong use of the command line.";

/// Embed some of the stored pictures again, and compare
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// How many pictures
    #[arg(long, default_value_t = 100, value_name = "N")]
    sample: usize,
    /// Lowest cosine between a vector and its new one that counts as the same. Engines, batch sizes and
    /// element types make differences of about a ten-thousandth
    #[arg(long, default_value_t = 0.999, value_name = "COSINE")]
    at_least: f64,
    /// Choose the same ones as with this number before
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn verify(args: &VerifyArgs) -> Outcome {
    let store = open_to_read(&args.store)?;
    let embedder = args.model.embedder_for(&args.store, &store.snapshot())?;
    let seed = args.seed.unwrap_or_else(|| (runs::now() * 1000.0) as u64);
    let sampled = verify_sample(&store, &embedder, args.sample, seed, args.at_least)?;
    if args.json {
        print_json(&json!({
            "checked": sampled.checked, "same": sampled.same, "lowest": sampled.lowest, "seed": seed,
            "different": sampled.different.count(), "skipped": sampled.skipped.count(),
            "different_first": listed("key", &sampled.different),
            "skipped_first": listed("key", &sampled.skipped),
        }))?;
    } else {
        let (store, lowest) = (args.store.display(), sampled.lowest);
        let counts = [sampled.checked, sampled.same, sampled.different.count(), sampled.skipped.count()];
        let [checked, same, different, skipped] = counts.map(HumanCount);
        let counted =
            format!("{checked} checked, {same} the same, {different} different, {skipped} could not be");
        let mut text = format!("{store}: {counted} compared; lowest cosine {lowest:.6}; seed {seed}\n");
        for file in sampled.different.first().iter().chain(sampled.skipped.first()) {
            text += &format!("  {}\n", told(file));
        }
        print(&text)?;
    }
    Ok(if sampled.different.count() == 0 { 0 } else { EXIT_FAILED })
}

//! `vecstore-embed search`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vecstore::{Hit, escaped};

use super::model_args::ModelArgs;
use super::output::{Outcome, named, open_to_read, print, print_json};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed search --store photos.vecs --image holiday.jpg -k 5
  vecstore-embed search --store photos.vecs --image holiday.jpg --json
  vecstore-embed search --store clip.vecs --image holiday.jpg --model moved/model.onnx

The picture is embedded with the model that filled the store, which remembers where that model was.
Give --model when it has moved. A model that is not the same one is refused.";

/// Find the pictures of a store that are most like a picture
///
/// Prints one line per hit, nearest first: similarity (cosine: 1 is the same direction), and key.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SearchArgs {
    /// The store to search
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The picture to search with; it need not be in the store
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// How many to find
    #[arg(short = 'k', long = "count", default_value = "10", value_name = "N")]
    count: NonZeroUsize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn search(args: &SearchArgs) -> Outcome {
    let store = open_to_read(&args.store)?;
    let snapshot = store.snapshot();
    let embedder = args.model.embedder_for(&args.store, &snapshot)?;
    embedder.check_query(&store)?;
    let vector = embedder.embed_file(&args.image)?;
    let hits = snapshot.search(&vector, args.count.get())?;
    if args.json {
        let hit = |hit: &Hit| {
            let address = json!({"commit": hit.address.commit, "row": hit.address.row});
            named("key", &hit.key, json!({"score": hit.score, "row": hit.row, "address": address}))
        };
        let hits: Vec<Value> = hits.iter().map(hit).collect();
        print_json(&json!({ "metric": snapshot.metric().to_string(), "hits": hits }))?;
    } else if hits.is_empty() {
        print(format!("{}: the store holds no vectors yet\n", args.store.display()))?;
    } else {
        let line = |hit: &Hit| format!("{:.4}  {}\n", hit.score, escaped(&hit.key));
        print(hits.iter().map(line).collect::<String>())?;
    }
    Ok(0)
}

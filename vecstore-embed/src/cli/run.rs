//! `vecstore-embed run`.

use std::env;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, value_parser};
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use vecstore::{DType, OpenOptions};
use vecstore_embed::progress::FirstFew;
use vecstore_embed::{Ended, RootArg, Run, StopFlag, Summary};

use super::display::Display;
use super::model_args::{MachineArgs, ModelArgs};
use super::output::{Failure, Outcome, named, print, print_json, shown};
use super::{EXIT_CODES, EXIT_RUN_AGAIN};
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  vecstore-embed run --folder photos --recursive --store photos.vecs
  vecstore-embed run --folder photos --store photos.vecs --batch-size 128 --workers 8
  vecstore-embed run --folder photos --store clip.vecs --model clip/model.onnx --backend onnxruntime
  vecstore-embed run --folder /media/phone --recursive --store photos.vecs --root phone=/media/phone

What is an input:
  Regular files that begin like a jpeg, png, webp, gif, bmp or tiff picture, and those that are called like one.
  One whose content is bad (empty, cut off, text called .jpg, too large) is recorded as rejected, and not retried;
  to try one again: vecstore delete STORE KEY, and run again (vecstore-embed status --rejected lists the keys).
  One that cannot be read stays missing, and is tried again by the next run.
  Symbolic links are not followed. Other files are ignored.

Keys:
  The key of a picture is its path relative to the store's root, which is the folder of the first run.
  A later run may start in any folder inside it: no picture is embedded twice.
  Pictures from elsewhere need a named root, --root NAME=DIR, and get keys like //NAME/path.
  --root with a name that exists says that those pictures are in DIR now; the first root's name is '.'.

Stopping:
  Ctrl-C (or SIGTERM) finishes and commits what is in flight; a second one ends at once.
  Neither loses anything that was committed. The same command goes on where the run stopped.
";

/// Larger batches gain nothing: the model is busy long before, and a commit is lost for more pictures.
const MAX_BATCH: i64 = 4096;

/// More threads than this only wait for each other.
const MAX_WORKERS: i64 = 256;

/// Embed a folder of pictures into a store: what the store lacks, and nothing twice
///
/// Creates the store on first use. Each batch is durable before it counts as done.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub(crate) struct RunArgs {
    /// The folder that holds the pictures
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The store to fill; created on first use
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Also the folders in the folder
    #[arg(short, long)]
    recursive: bool,
    /// Add the folder DIR to the store's roots as NAME, or say that the pictures of NAME are there now
    #[arg(long, value_name = "NAME=DIR", value_parser = OsStringValueParser::new().try_map(|text| RootArg::parse(&text)))]
    root: Vec<RootArg>,
    /// Pictures per inference, and per commit
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = value_parser!(u16).range(1..=MAX_BATCH))]
    batch_size: u16,
    /// Threads that read and decode; as many as processors unless given
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=MAX_WORKERS))]
    workers: Option<u16>,
    /// Element type of a new store: f32 (unless given), f16, bf16 or i8
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DType>,
    /// Stop after this many files in a row that cannot be read; 0 for never
    #[arg(long, default_value_t = 20, value_name = "N")]
    max_read_failures: u32,
    /// Memory for decoded pictures, over all workers
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    max_decoded: u64,
    /// Read back and compare every batch after saving it
    #[arg(long)]
    verify_saves: bool,
    /// How long to wait while another process commits
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    lock_timeout: u64,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn run(args: &RunArgs, display: &Display) -> Outcome {
    let stop = StopFlag::default();
    signals::install(&stop).map_err(Failure::Signals)?;
    display.open(args.quiet, stop.clone());
    let spec = args.model.spec();
    let model = spec.load()?;
    let summary = builder(args)
        .with_settings(spec.to_settings())
        .with_stop(stop)
        .with_observer(Arc::new(display.clone()));
    let summary = summary.run(&model);
    display.close();
    let summary = summary.inspect_err(|_| {
        let committed = display.committed();
        if committed > 0 {
            let committed = HumanCount(committed);
            display.say(&format!(
                "{committed} of this run are stored, and stay; the same command goes on from there"
            ));
        }
    })?;
    match args.json {
        true => print_json(&json_summary(&summary))?,
        false => print(&text_summary(args, &summary))?,
    }
    Ok(if summary.is_complete() { 0 } else { EXIT_RUN_AGAIN })
}

fn builder(args: &RunArgs) -> Run {
    let options = OpenOptions::new()
        .verify_saves(args.verify_saves)
        .lock_timeout(Duration::from_secs(args.lock_timeout));
    let mut run = Run::new(&args.folder, &args.store)
        .with_recursive(args.recursive)
        .with_batch_size(args.batch_size.into())
        .with_roots(args.root.iter().cloned())
        .with_limits(args.machine.limits())
        .with_max_read_failures(args.max_read_failures)
        .with_max_decoded_bytes(args.max_decoded.saturating_mul(1 << 20))
        .with_backend(args.machine.backend())
        .with_open_options(options);
    if let Some(workers) = args.workers {
        run = run.with_workers(workers.into());
    }
    if let Some(dtype) = args.dtype {
        run = run.with_dtype(dtype);
    }
    run
}

fn text_summary(args: &RunArgs, summary: &Summary) -> String {
    let count = |count: u64| HumanCount(count);
    let mut text = String::new();
    // Writing to a String cannot fail.
    if summary.found == 0 && summary.left == 0 {
        let deeper = if args.recursive { "" } else { " (folders in it are left out without --recursive)" };
        let _ =
            writeln!(text, "{}: no pictures in this folder{deeper}: nothing to do", args.folder.display());
    } else {
        let _ = write!(
            text,
            "{}: {} embedded, {} rejected, {} already stored",
            args.store.display(),
            count(summary.embedded),
            count(summary.rejected),
            count(summary.already),
        );
        if summary.unread.count() > 0 {
            let _ = write!(text, ", {} could not be read", count(summary.unread.count()));
        }
        let _ = writeln!(text, "; {} found, {:.1} s", count(summary.found), summary.elapsed.as_secs_f64());
    }
    list(&mut text, "rejected:", &summary.rejections);
    if summary.rejections.count() > summary.rejections.first().len() as u64 {
        let _ = writeln!(
            text,
            "  list them all: vecstore-embed status --rejected --store {}",
            args.store.display()
        );
    }
    list(&mut text, "could not be read, and stay missing:", &summary.unread);
    if summary.ignored > 0 || summary.skipped > 0 {
        let (ignored, skipped) = (count(summary.ignored), count(summary.skipped));
        let _ = writeln!(text, "not looked at: {ignored} other files, {skipped} links and special files");
    }
    let (why, or) = match summary.ended {
        Ended::Stopped => (format!("stopped before the end, {} left", count(summary.left)), ""),
        Ended::ReadFailures => (
            format!(
                "stopped: {} in a row could not be read (is the drive still there?)",
                args.max_read_failures
            ),
            ", or with `--max-read-failures 0` to go past them",
        ),
        _ if summary.unread.count() > 0 => ("some files could not be read".to_owned(), ""),
        _ => return text,
    };
    let _ = writeln!(text, "{why}; to go on, run the same command again{or}:\n  {}", command_line());
    text
}

fn list(text: &mut String, heading: &str, files: &FirstFew) {
    if files.count() == 0 {
        return;
    }
    let _ = writeln!(text, "{heading}");
    for file in files.first() {
        let _ = writeln!(text, "  {}: {}", shown(file.path.as_os_str().as_bytes()), file.reason);
    }
    let more = files.count() - files.first().len() as u64;
    if more > 0 {
        let _ = writeln!(text, "  and {} more", HumanCount(more));
    }
}

fn json_summary(summary: &Summary) -> Value {
    let list = |files: &FirstFew| -> Vec<Value> {
        let entry = |file: &vecstore_embed::progress::Listed| {
            let mut object = named("path", file.path.as_os_str().as_bytes());
            object.insert("reason".to_owned(), json!(file.reason));
            Value::Object(object)
        };
        files.first().iter().map(entry).collect()
    };
    let ended = match summary.ended {
        Ended::Stopped => "stopped",
        Ended::ReadFailures => "read failures",
        _ => "finished",
    };
    json!({
        "ended": ended,
        "complete": summary.is_complete(),
        "found": summary.found,
        "already": summary.already,
        "embedded": summary.embedded,
        "rejected": summary.rejected,
        "unread": summary.unread.count(),
        "left": summary.left,
        "ignored": summary.ignored,
        "skipped": summary.skipped,
        "commits": summary.commits,
        "seconds": summary.elapsed.as_secs_f64(),
        "rejected_first": list(&summary.rejections),
        "unread_first": list(&summary.unread),
    })
}

/// This command, to be pasted into a shell.
fn command_line() -> String {
    let words: Vec<String> = env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("--folder=/a/b_1.x"), "--folder=/a/b_1.x");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}

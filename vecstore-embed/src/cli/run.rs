//! `vecstore-embed run`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, value_parser};
use indicatif::HumanCount;
use tempfile::NamedTempFile;
use vecstore::{DType, OpenOptions};
use vecstore_embed::{Embedder, Files, Filter, RootArg, Run, Shard, StopFlag, Summary, tar_files};

use super::display::Display;
use super::model_args::ModelArgs;
use super::output::{Failure, Outcome, print, print_json};
use super::registration::Registration;
use super::summary::{busy, dry_run, errors, json_summary, text_summary};
use super::{EXIT_CODES, EXIT_FAILED, EXIT_RUN_AGAIN, settings, signals, start};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed run --folder photos --recursive --store photos.vecs
  vecstore-embed run --folder photos --store photos.vecs --batch-size 128 --workers 8
  vecstore-embed run --folder photos --store clip.vecs --model clip/model.onnx --backend onnxruntime
  vecstore-embed run --folder photos --store clip.vecs --model clip/model.onnx --device cuda:0,1
  vecstore-embed run --folder /media/phone --recursive --store photos.vecs --root phone=/media/phone
  vecstore-embed run --folder faces -r --store faces.vecs --min-images 5 --exclude '@eaDir' --exclude '*.gif'
  find photos -newer last-week | vecstore-embed run --folder . --list - --store photos.vecs
  vecstore-embed run --tar 'shards/{000..127}.tar' --shard 3/8 --store part3.vecs
  vecstore-embed run --config job.toml --dry-run

What is an input:
  Regular files that begin like a jpeg, png, webp, gif, bmp or tiff picture, and those that are called like
  one. Bad content (empty, cut off, text called .jpg, too large) is recorded as rejected, and not tried again;
  vecstore-embed status --rejected lists it, vecstore-embed retry gives it another chance. A file that cannot
  be read stays missing, and is tried again by the next run. Symbolic links are not followed unless
  --follow-links says so. Other files are counted, by extension, and left alone. Every folder counts, however
  few pictures are in it, unless --min-images says otherwise.
  --list takes the files that a file, or standard input, names instead: one path per line, or one JSON
  object with a \"path\". --tar takes the members of tar files that are called like a picture.

Company:
  Several runs may fill one store at once: they share the work by chunks of a folder, and what one has begun
  when it dies is taken over by the others. Give them the same options: chunks are counted in the order of
  names, so where --chunk-size or patterns differ, or while files arrive, a picture may be embedded by two of
  them (and is stored once). --shard is for machines that do not share the store: each fills one of its own.

Changes and failures:
  A file whose length or time changed is read again, and embedded again where its content is another. Entries
  whose files are gone are listed, and removed with --prune. A save that fails is tried again; a full disk
  pauses the run until there is room. A limit on the size of files (ulimit -f) ends the run with code 74.

Keys:
  The key of a picture is its path relative to the store's root, which is the folder of the first run. A later
  run may start in any folder inside it: no picture is embedded twice. Pictures from elsewhere need a named
  root, --root NAME=DIR, and get keys like //NAME/path. --root with a name that exists says that those
  pictures are in DIR now; the first root's name is '.'.

Stopping:
  Ctrl-C (or SIGTERM, or `vecstore-embed stop`) finishes and commits what is in flight, as far as 15 seconds
  suffice, and ends after 18 in any case; a second one ends at once. Neither loses anything that was
  committed. The same command goes on where the run stopped.
";

/// What `start` tells its run with.
pub(super) const DETACHED: &str = "VECSTORE_EMBED_DETACHED";

/// Embed a folder of pictures into a store: what the store lacks, and nothing twice
///
/// Creates the store on first use. Each batch is durable before it counts as done.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n{}\n{EXIT_CODES}", settings::HELP))]
pub(crate) struct RunArgs {
    /// The folder that holds the pictures
    #[arg(long, value_name = "DIR", required_unless_present_any = ["list", "tar"])]
    pub(super) folder: Option<PathBuf>,
    /// The store to fill; created on first use, where nothing is or in an empty folder (a mounted drive, say)
    #[arg(long, value_name = "DIR")]
    pub(super) store: PathBuf,
    /// Also the folders in the folder
    #[arg(short, long)]
    pub(super) recursive: bool,
    /// Leave out folders with fewer pictures than this
    #[arg(long, default_value_t = 1, value_name = "N")]
    min_images: u64,
    /// Only files that match: '*.jpg' is about names, '2019/**' about paths in the folder; may be given
    /// several times
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No files or folders that match; may be given several times
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Follow symbolic links, to files and to folders
    #[arg(long)]
    follow_links: bool,
    /// Take the files that FILE names, or standard input if it is '-', one path or JSON object per line
    #[arg(long, value_name = "FILE|-", conflicts_with = "tar")]
    pub(super) list: Option<PathBuf>,
    /// Take the pictures in these tar files; '{000..127}' stands for numbers
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(super) tar: Vec<String>,
    /// Only the part I of N of the inputs, by their keys; I counts from 0
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Remove the entries of files that are gone; not after a run that did not see everything, nor without
    /// --yes if they are more than one in ten
    #[arg(long)]
    prune: bool,
    /// Remove them however many they are
    #[arg(long, requires_if("true", "prune"))]
    yes: bool,
    /// End with code 74 when saving fails more often than this in a row; a full disk is waited for, and not
    /// counted
    #[arg(long, default_value_t = 10, value_name = "N")]
    save_retries: u32,
    /// Give numbers to Prometheus: a file that is replaced every few seconds, or an address to ask, like
    /// 127.0.0.1:9100
    #[arg(long, value_name = "FILE|ADDR")]
    metrics: Option<String>,
    /// Show what there is to do, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Add the folder DIR to the store's roots as NAME, or say that the pictures of NAME are there now
    #[arg(long, value_name = "NAME=DIR",
          value_parser = OsStringValueParser::new().try_map(|text| RootArg::parse(&text)))]
    root: Vec<RootArg>,
    /// Pictures per inference
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    /// Vectors per commit; what is there after two seconds is committed anyway
    #[arg(long, alias = "db-batch-size", default_value_t = 1000, value_name = "N",
          value_parser = value_parser!(u32).range(1..))]
    commit_rows: u32,
    /// Pictures of one folder that a run takes on at a time, when several share the work
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    chunk_size: u32,
    /// Threads that decode; as many as processors unless given
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Threads that read ahead; twice as many as processors unless given. More help where a disk or network
    /// takes long to answer
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    readers: Option<u16>,
    /// How often the model is loaded on each card, or on the processor, so that one works while another
    /// waits; 1 on the processor and 2 on a card unless given
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=64))]
    lanes: Option<u16>,
    /// Element type of a new store: f32 (unless given), f16, bf16 or i8
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DType>,
    /// Stop after this many files in a row that cannot be read; 0 for never
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(super) max_read_failures: u32,
    /// Memory for decoded pictures, over all workers
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    max_decoded: u64,
    /// Read back and compare every batch after saving it
    #[arg(long)]
    verify_saves: bool,
    /// How long to wait while another process commits
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    lock_timeout: u64,
    /// Say nothing but errors: no progress, no summary, no warnings. The exit code tells how it went; what
    /// --json and --dry-run are to print is printed
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Started by `start`, away from any terminal
    #[arg(long, hide = true, env = DETACHED)]
    pub(super) detached: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: &RunArgs, display: &Display) -> Outcome {
    if args.detached {
        start::detach()?;
    }
    if args.dry_run {
        let stdin = args.stdin()?;
        let (run, embedder) = prepared(args, stdin.as_ref())?;
        return dry_run(args, &run.survey(&embedder)?);
    }
    let stop = StopFlag::default();
    signals::install(&stop).map_err(Failure::Signals)?;
    let registration = Registration::join(args, stop.clone(), display);
    let watched = registration.metrics(args.metrics.as_deref());
    let outcome = watched.and_then(|()| embed(args, stop, display));
    display.close();
    registration.leave(args, &outcome);
    let committed = display.committed();
    if outcome.is_err() && committed > 0 {
        let stored = format!("{} of this run are stored, and stay", HumanCount(committed));
        display.say(&format!("{stored}; the same command goes on from there"));
    }
    let summary = outcome?;
    match (args.json, args.quiet) {
        (true, _) => print_json(&json_summary(&summary))?,
        (false, false) => print(text_summary(args, &summary))?,
        (false, true) => {
            // With stderr closed the exit code alone says it.
            let _ = io::stderr().write_all(errors(args, &summary).as_bytes());
        }
    }
    Ok(exit_code(&summary))
}

pub(super) fn exit_code(summary: &Summary) -> u8 {
    match summary.is_complete() {
        false => EXIT_RUN_AGAIN,
        true if summary.gone.refused.is_some() => EXIT_FAILED,
        true => 0,
    }
}

fn embed(args: &RunArgs, stop: StopFlag, display: &Display) -> Result<Summary, Failure> {
    let stdin = args.stdin()?;
    let (run, embedder) = prepared(args, stdin.as_ref())?;
    let summary = run.with_stop(stop).with_observer(Arc::new(display.clone())).run(&embedder)?;
    if summary.stages.limit().is_some() {
        log::info!("busy: {}", busy(&summary.stages));
    }
    Ok(summary)
}

/// Standard input as a file: a list is read more than once.
fn spool() -> Result<NamedTempFile, Failure> {
    let failed = |error| Failure::Stdin(env::temp_dir(), error);
    let mut file = NamedTempFile::new().map_err(failed)?;
    loop {
        let mut bytes = Vec::new();
        io::stdin().take(1 << 20).read_to_end(&mut bytes).map_err(Failure::StdinUnread)?;
        if bytes.is_empty() {
            return Ok(file);
        }
        file.write_all(&bytes).map_err(failed)?;
    }
}

/// What these options ask for; a list from standard input lies in that file.
fn prepared(args: &RunArgs, stdin: Option<&NamedTempFile>) -> Result<(Run, Embedder), Failure> {
    let spec = args.model.spec()?;
    let mut embedder = args.model.machine.embedder(&spec.load()?).batch(args.batch_size.into());
    embedder = embedder.max_loaded_bytes(args.max_decoded.saturating_mul(1 << 20));
    if let Some(readers) = args.readers {
        embedder = embedder.readers(readers.into());
    }
    if let Some(workers) = args.workers {
        embedder = embedder.workers(workers.into());
    }
    if let Some(lanes) = args.lanes {
        embedder = embedder.lanes(lanes.into());
    }
    let options = OpenOptions::new()
        .verify_saves(args.verify_saves)
        .lock_timeout(Duration::from_secs(args.lock_timeout));
    let tars: Result<Vec<_>, _> = args.tar.iter().map(|pattern| tar_files(pattern)).collect();
    let tars = tars?.concat();
    let mut files = Files::new(args.folder(&tars))
        .with_recursive(args.recursive)
        .with_min_inputs(args.min_images)
        .with_filter(Filter::new(&args.include, &args.exclude)?)
        .with_follow_links(args.follow_links);
    if let Some(list) = stdin.map(NamedTempFile::path).or(args.list.as_deref()) {
        files = files.with_list(list);
    }
    if !tars.is_empty() {
        files = files.with_tars(tars.iter().map(|tar| real(tar)));
    }
    let mut run = Run::new(files, &args.store)
        .with_prune(args.prune, args.yes)
        .with_save_retries(args.save_retries, Duration::from_secs(1))
        .with_chunk_size(usize::try_from(args.chunk_size).unwrap_or(usize::MAX))
        .with_commit_rows(usize::try_from(args.commit_rows).unwrap_or(usize::MAX))
        .with_roots(args.root.iter().cloned())
        .with_max_read_failures(args.max_read_failures)
        .with_open_options(options)
        .with_settings(spec.to_settings());
    if let Some(dtype) = args.dtype {
        run = run.with_dtype(dtype);
    }
    if let Some(shard) = args.shard {
        run = run.with_shard(shard);
    }
    Ok((run, embedder.build()))
}

/// The path that keys are made from. One that is not there is reported when it is read.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

impl RunArgs {
    /// The list that comes from standard input, if it does.
    fn stdin(&self) -> Result<Option<NamedTempFile>, Failure> {
        self.lists_stdin().then(spool).transpose()
    }

    pub(super) fn lists_stdin(&self) -> bool {
        self.list.as_ref().is_some_and(|list| list.as_os_str() == "-")
    }

    /// Which inputs these options name: runs of which it is the same share their work.
    pub(super) fn source(&self) -> String {
        let [folder, list] = [&self.folder, &self.list].map(|path| path.as_deref().map(real));
        let patterns = (&self.include, &self.exclude);
        let rest = (self.recursive, self.min_images, self.follow_links, self.shard);
        format!("{:?}", (folder, list, &self.tar, patterns, rest))
    }

    /// The folder of the run: what keys are relative to, if it is the first. Without it that of the tar
    /// files, or the one the command was started in.
    fn folder(&self, tars: &[PathBuf]) -> PathBuf {
        let around = || {
            let mut around = real(tars.first()?).parent()?.to_owned();
            while !tars.iter().all(|tar| real(tar).starts_with(&around)) && around.pop() {}
            Some(around)
        };
        self.folder.clone().or_else(around).unwrap_or_else(|| PathBuf::from("."))
    }
}

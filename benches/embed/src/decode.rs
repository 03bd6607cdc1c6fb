//! A run that is bound by decoding.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vecstore_embed::backend::{Batch, Output, Signature};
use vecstore_embed::image::preprocess::JpegScale;
use vecstore_embed::source::{Input, Walk};
use vecstore_embed::tensor::{Element, TensorSpec};
use vecstore_embed::{DecodeLimits, Embedder, Encoder, Files, Model, Result, Run, Source};

use crate::runs::{check, folder_of, median, shares, with_processor};
use crate::{Outcome, model};

#[derive(clap::Args)]
pub struct Args {
    /// A model that takes pictures of 224 x 224; its fingerprint alone is used
    #[arg(long)]
    model: PathBuf,
    /// The pictures. With prepared JPEGs of 224 x 224 (`small` of inputs.py) and a count of 10,000 or more,
    /// the figures are those of the pipeline itself: end to end, with a model that takes no time
    #[arg(long)]
    pictures: PathBuf,
    /// Pictures in each round
    #[arg(long, default_value_t = 200)]
    count: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads; as many as cores unless given
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Threads that read ahead; twice as many as cores unless given
    #[arg(long)]
    readers: Option<usize>,
    /// Milliseconds that each file takes to be opened, as on a network; of the run, not of the bare loop
    #[arg(long)]
    latency: Option<u64>,
    /// exact, or scaled (in a build with the feature turbojpeg)
    #[arg(long, default_value_t = JpegScale::Exact)]
    jpeg: JpegScale,
    /// Vectors per commit
    #[arg(long, default_value_t = 1000)]
    commit_rows: usize,
    /// Where the store is written
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A second place, in memory: what the same run takes that does not wait for a disk
    #[arg(long)]
    memory: Option<PathBuf>,
}

/// Files that take a while to be opened.
struct Late(Files, Duration);

impl Source for Late {
    fn walk(&self) -> Result<Walk<'_>> {
        self.0.walk()
    }

    fn open(&self, input: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
        thread::sleep(self.1);
        self.0.open(input)
    }
}

/// A model that takes no time.
pub struct Nothing {
    signature: Signature,
    dim: usize,
}

impl Nothing {
    /// For pictures of 224 x 224, with vectors of this length.
    pub fn new(dim: usize) -> Self {
        let inputs = vec![TensorSpec::new("pixels", Element::F32, &[3, 224, 224])];
        let outputs = vec![TensorSpec::new("vectors", Element::F32, &[dim])];
        Nothing { signature: Signature { inputs, outputs }, dim }
    }
}

impl Encoder for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        let numbers = vec![0.5; batch.items * self.dim];
        Ok(vec![Output { name: "vectors".to_owned(), shape: vec![batch.items, self.dim], numbers }])
    }
}

/// The work that every run has: each core takes the next picture, reads, decodes and resizes it.
fn bare(model: &Model, paths: &[PathBuf], workers: usize) -> Outcome<Duration> {
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let work = || -> std::result::Result<(), String> {
        let mut tensor = vec![0.0; model.preprocess().tensor_len()];
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = fs::read(path).map_err(|error| error.to_string())?;
            let picture = model
                .preprocess()
                .decode(&bytes, &DecodeLimits::default())
                .map_err(|error| error.to_string())?;
            model.preprocess().apply(&picture, &mut tensor).map_err(|error| error.to_string())?;
            vecstore_embed::image::recycle(picture);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a panic".to_owned())))
    })?;
    Ok(began.elapsed())
}

pub fn run(args: &Args) -> Outcome<()> {
    let dir = args.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    let memory = args.memory.as_ref().map(tempfile::tempdir_in).transpose()?;
    let paths = folder_of(&args.pictures, args.count, &dir.path().join("pictures"))?;
    let workers = match args.workers {
        0 => thread::available_parallelism()?.get(),
        workers => workers,
    };
    let model = model(&args.model, args.jpeg)?;
    let rate = |time: Duration| args.count as f64 / time.as_secs_f64();
    println!("pictures per second; {} of them, {workers} threads", args.count);
    let (mut ratios, mut costs, mut durable, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
    // Pictures per second, and per second of processor time (the rate of one core): bare, then of the run.
    let mut rates = [const { Vec::new() }; 4];
    let per_picture = |seconds: f64| 1000.0 * seconds / args.count as f64;
    bare(&model, &paths, workers)?;
    for round in 0..args.rounds {
        let run_in = |place: &std::path::Path| -> Outcome<_> {
            let store = place.join(format!("{round}.vecs"));
            let files = Files::new(dir.path().join("pictures"));
            let run = match args.latency {
                Some(latency) => Run::new(Late(files, Duration::from_millis(latency)), &store),
                None => Run::new(files, &store),
            };
            let run = run.with_commit_rows(args.commit_rows);
            let encoders: Vec<Box<dyn Encoder>> = vec![Box::new(Nothing::new(512))];
            let builder = Embedder::builder(&model).workers(workers).encoders(encoders);
            let builder = builder.readers(args.readers.unwrap_or(2 * workers));
            let summary = run.run(&builder.build())?;
            check(&summary, args.count)?;
            Ok(summary)
        };
        let (alone, alone_cost) = with_processor(|| bare(&model, &paths, workers))?;
        let (summary, cost) = with_processor(|| run_in(dir.path()))?;
        let in_memory = memory.as_ref().map(|memory| run_in(memory.path())).transpose()?;
        let (again, again_cost) = with_processor(|| bare(&model, &paths, workers))?;
        let (best, best_cost) = (alone.min(again), alone_cost.min(again_cost));
        let ratio = best.as_secs_f64() / summary.elapsed.as_secs_f64();
        print!("bare {:.2}   run {:.2}   {ratio:.3}", rate(best), rate(summary.elapsed));
        let (bare_ms, run_ms) = (per_picture(best_cost), per_picture(cost));
        print!("   processor: bare {bare_ms:.2} ms, run {run_ms:.2} ms, {:.3}", best_cost / cost);
        costs.push(best_cost / cost);
        let seconds = [best.as_secs_f64(), best_cost, summary.elapsed.as_secs_f64(), cost];
        for (rates, seconds) in rates.iter_mut().zip(seconds) {
            rates.push(args.count as f64 / seconds);
        }
        if let Some(in_memory) = in_memory {
            durable.push(summary.elapsed.as_secs_f64() / in_memory.elapsed.as_secs_f64() - 1.0);
            print!("   with the store in memory {:.2}", rate(in_memory.elapsed));
        }
        println!();
        ratios.push(ratio);
        last = Some(summary);
    }
    let [bare_rate, bare_core, run_rate, run_core] = rates.map(|rates| median(&rates));
    println!("median: bare {bare_rate:.0} pictures a second, {bare_core:.0} per core");
    println!("median: run  {run_rate:.0} pictures a second, {run_core:.0} per core");
    println!("median: {:.3} of the rate, {:.3} of the processor time", median(&ratios), median(&costs));
    if !durable.is_empty() {
        println!("a store on disk instead of in memory: {:+.2} % of the run", 100.0 * median(&durable));
    }
    if let Some(summary) = last {
        let storing = summary.stages.commit.working.as_secs_f64() / summary.elapsed.as_secs_f64();
        println!("last run:\n    {}", shares(&summary.stages));
        println!("    storing: {} commits, {:.2} % of the run's time", summary.commits, 100.0 * storing);
    }
    Ok(())
}

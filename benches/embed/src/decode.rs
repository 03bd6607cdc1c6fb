//! A run that is bound by decoding.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vecstore_embed::preprocess::JpegScale;
use vecstore_embed::{Backend, DecodeLimits, Model, Result, Run};

use crate::runs::{check, folder_of, median, shares, with_processor};
use crate::{Outcome, model};

#[derive(clap::Args)]
pub struct Args {
    /// A model that takes pictures of 224 x 224; its fingerprint alone is used
    #[arg(long)]
    model: PathBuf,
    /// The pictures
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

/// A model that takes no time, with vectors of this length.
pub struct Nothing(pub usize);

impl Backend for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    fn dim(&self) -> usize {
        self.0
    }

    fn preferred_batch(&self) -> usize {
        32
    }

    fn embed(&mut self, batch: usize, _: &[f32]) -> Result<Vec<f32>> {
        Ok(vec![0.5; batch * self.0])
    }
}

/// What nobody can do without: every core takes the next picture, reads, decodes and resizes it.
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
            vecstore_embed::picture::recycle(picture);
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
    let per_picture = |seconds: f64| 1000.0 * seconds / args.count as f64;
    bare(&model, &paths, workers)?;
    for round in 0..args.rounds {
        let run_in = |place: &std::path::Path| -> Outcome<_> {
            let store = place.join(format!("{round}.vecs"));
            let run = Run::new(dir.path().join("pictures"), &store)
                .with_workers(workers)
                .with_commit_rows(args.commit_rows);
            let summary = run.run_on(&model, Box::new(Nothing(512)))?;
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
        if let Some(in_memory) = in_memory {
            durable.push(summary.elapsed.as_secs_f64() / in_memory.elapsed.as_secs_f64() - 1.0);
            print!("   with the store in memory {:.2}", rate(in_memory.elapsed));
        }
        println!();
        ratios.push(ratio);
        last = Some(summary);
    }
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

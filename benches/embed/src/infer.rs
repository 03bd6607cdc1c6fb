//! A run that is bound by its model.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use vecstore_embed::preprocess::JpegScale;
use vecstore_embed::{BackendChoice, BackendOptions, Run};

use crate::runs::{check, folder_of, median, shares};
use crate::{Outcome, model};

#[derive(clap::Args)]
pub struct Args {
    /// The model: pictures of 224 x 224 in, vectors out
    #[arg(long)]
    model: PathBuf,
    /// The ONNX Runtime library
    #[arg(long)]
    ort_lib: PathBuf,
    /// Small pictures, so that decoding takes as little of the same cores as can be
    #[arg(long)]
    pictures: PathBuf,
    /// Pictures in each round
    #[arg(long, default_value_t = 320)]
    count: usize,
    #[arg(long, default_value_t = 32)]
    batch: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Threads of the model; as many as cores unless given
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Threads that decode
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Where the store is written
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Bare {
    model: PathBuf,
    ort_lib: PathBuf,
    count: usize,
    batch: usize,
    threads: usize,
    /// Let threads that wait spin, as ONNX Runtime does unless told otherwise
    #[arg(action = clap::ArgAction::Set)]
    spin: bool,
}

/// Pictures per second of `Session::run` on tensors in memory.
pub fn bare(args: &Bare) -> Outcome<()> {
    let environment = ort::init_from(&args.ort_lib)?.with_telemetry(false).build()?;
    let text = |e: ort::Error<_>| e.to_string();
    let mut builder = Session::builder(&environment)?
        .with_intra_threads(args.threads)
        .map_err(text)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_intra_op_spinning(args.spin)
        .map_err(text)?;
    let mut session = builder.commit_from_file(&args.model)?;
    let pixels: Vec<f32> = (0..args.batch * 3 * 224 * 224).map(|at| (at % 97) as f32 / 50.0 - 1.0).collect();
    let mut run = || -> Outcome<()> {
        let tensor = TensorRef::<f32>::from_array_view(([args.batch, 3, 224, 224], &pixels[..]))?;
        let outputs = session.run(ort::inputs![tensor])?;
        outputs[0].try_extract_tensor::<f32>()?;
        Ok(())
    };
    run()?;
    let began = Instant::now();
    let batches = args.count.div_ceil(args.batch);
    (0..batches).try_for_each(|_| run())?;
    println!("{}", (batches * args.batch) as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

pub fn run(args: &Args) -> Outcome<()> {
    let dir = args.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    folder_of(&args.pictures, args.count, &dir.path().join("pictures"))?;
    let model = model(&args.model, JpegScale::Exact)?;
    let threads = match args.threads {
        0 => std::thread::available_parallelism()?.get(),
        threads => threads,
    };
    let bare = |spin: bool| -> Outcome<f64> {
        let numbers = [args.count, args.batch, threads].map(|number| number.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").args([&args.model, &args.ort_lib]).args(numbers).arg(spin.to_string());
        let output = command.output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?.trim().parse()?),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    };
    println!("pictures per second; {} in batches of {}, {threads} threads", args.count, args.batch);
    let mut ratios = Vec::new();
    let mut last = None;
    for round in 0..args.rounds {
        let (sleeping, spinning) = (bare(false)?, bare(true)?);
        let choice = BackendChoice::OnnxRuntime;
        let backend = BackendOptions {
            choice,
            ort_lib: Some(args.ort_lib.clone()),
            threads,
            ..BackendOptions::default()
        };
        // Loading the model is not what is compared.
        let backend = vecstore_embed::open_backend(&model, &backend)?;
        let store = dir.path().join(format!("{round}.vecs"));
        let run = Run::new(dir.path().join("pictures"), &store)
            .with_batch_size(args.batch)
            .with_workers(args.workers);
        let summary = run.run_on(&model, backend)?;
        check(&summary, args.count)?;
        let rate = args.count as f64 / summary.elapsed.as_secs_f64();
        let best = sleeping.max(spinning);
        println!(
            "bare {sleeping:.2} (spinning {spinning:.2})   run {rate:.2}   {:.3} of the better",
            rate / best
        );
        ratios.push(rate / best);
        last = Some(summary);
    }
    println!("median: {:.3}", median(&ratios));
    if let Some(summary) = last {
        let storing = summary.stages.commit.working.as_secs_f64() / summary.elapsed.as_secs_f64();
        println!("last run:\n    {}", shares(&summary.stages));
        println!("    storing: {} commits, {:.2} % of the run's time", summary.commits, 100.0 * storing);
    }
    Ok(())
}

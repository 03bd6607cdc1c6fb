//! A run that is bound by its model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use half::f16;
use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{TensorElementType, TensorRef};
use vecstore_embed::backend::Provider;
use vecstore_embed::image::preprocess::JpegScale;
use vecstore_embed::{BackendChoice, BackendOptions, Device, Embedder, Files, Precision, Run, open_lanes};

use crate::busy::Busy;
use crate::runs::{check, folder_of, median, shares};
use crate::{Outcome, model_in};

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
    /// cpu, cuda or tensorrt, with numbers of cards
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Sessions on each card, or on the processor, each in a thread of its own; of the bare loop too
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    /// How exactly TensorRT computes
    #[arg(long, default_value = "full")]
    precision: Precision,
    /// Where TensorRT keeps engines
    #[arg(long)]
    engine_cache: Option<PathBuf>,
    /// Print nothing but one row of a table in Markdown
    #[arg(long)]
    row: bool,
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
    #[arg(long, default_value = "cpu")]
    device: Device,
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    #[arg(long, default_value = "full")]
    precision: Precision,
    #[arg(long)]
    engine_cache: Option<PathBuf>,
}

impl Bare {
    /// A session as a run would have one.
    fn session(&self, environment: &ort::environment::Environment, card: u32) -> Outcome<Session> {
        let text = |e: ort::Error<_>| e.to_string();
        let mut builder = Session::builder(environment)?
            .with_intra_threads((self.threads / self.lanes).max(1))
            .map_err(text)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(text)?
            .with_intra_op_spinning(self.spin)
            .map_err(text)?;
        let card = i32::try_from(card)?;
        let cuda = || ep::CUDA::default().with_device_id(card).build().error_on_failure();
        let providers = match self.device.provider() {
            Provider::Cuda => vec![cuda()],
            Provider::TensorRt => {
                let shape = format!("x:{}x3x224x224", self.batch);
                let mut tensorrt = ep::TensorRT::default()
                    .with_device_id(card)
                    .with_fp16(self.precision == Precision::F16)
                    .with_bf16(self.precision == Precision::Bf16)
                    .with_profile_min_shapes(&shape)
                    .with_profile_opt_shapes(&shape)
                    .with_profile_max_shapes(&shape);
                if let Some(engines) = self.engine_cache.as_deref().and_then(Path::to_str) {
                    tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(engines);
                }
                vec![tensorrt.build().error_on_failure(), cuda()]
            }
            _ => Vec::new(),
        };
        builder = builder.with_execution_providers(providers).map_err(text)?;
        Ok(builder.commit_from_file(&self.model)?)
    }
}

/// Pictures per second of `Session::run` on tensors in memory, of all lanes together.
pub fn bare(args: &Bare) -> Outcome<()> {
    let environment = ort::init_from(&args.ort_lib)?.with_telemetry(false).build()?;
    let cards = if args.device.cards().is_empty() { &[0] } else { args.device.cards() };
    let mut sessions = Vec::new();
    for card in cards {
        for _ in 0..args.lanes {
            sessions.push(args.session(&environment, *card)?);
        }
    }
    let pixels: Vec<f32> = (0..args.batch * 3 * 224 * 224).map(|at| (at % 97) as f32 / 50.0 - 1.0).collect();
    let halves: Vec<f16> = pixels.iter().map(|number| f16::from_f32(*number)).collect();
    let batches = args.count.div_ceil(args.batch * sessions.len());
    let (ready, lanes) = (Barrier::new(sessions.len()), sessions.len());
    let one = |session: &mut Session| -> Outcome<f64> {
        let half = session.inputs()[0].dtype().tensor_type() == Some(TensorElementType::Float16);
        let mut run = || -> Outcome<()> {
            let shape = [args.batch, 3, 224, 224];
            let outputs = match half {
                true => {
                    session.run(ort::inputs![TensorRef::<f16>::from_array_view((shape, &halves[..]))?])?
                }
                false => {
                    session.run(ort::inputs![TensorRef::<f32>::from_array_view((shape, &pixels[..]))?])?
                }
            };
            match half {
                true => drop(outputs[0].try_extract_tensor::<f16>()?),
                false => drop(outputs[0].try_extract_tensor::<f32>()?),
            }
            Ok(())
        };
        let warm = run();
        ready.wait();
        warm?;
        let began = Instant::now();
        (0..batches).try_for_each(|_| run())?;
        Ok(began.elapsed().as_secs_f64())
    };
    let one = &one;
    // Errors go over as text: the boxes of this program are not made for other threads.
    let slowest = thread::scope(|scope| -> Outcome<f64> {
        let threads: Vec<_> = sessions
            .iter_mut()
            .map(|session| scope.spawn(move || one(session).map_err(|e| e.to_string())))
            .collect();
        threads.into_iter().try_fold(0.0, |slowest: f64, thread| {
            let seconds = thread.join().map_err(|_| "a thread panicked")??;
            Ok(slowest.max(seconds))
        })
    })?;
    println!("{}", (batches * lanes * args.batch) as f64 / slowest);
    Ok(())
}

/// A rate, and how busy the cards were meanwhile.
struct Measured {
    rate: f64,
    busy: Option<f64>,
}

impl Args {
    fn threads(&self) -> Outcome<usize> {
        Ok(match self.threads {
            0 if self.device.is_gpu() => 1,
            0 => thread::available_parallelism()?.get(),
            threads => threads,
        })
    }

    /// The bare loop, in a process of its own.
    fn bare(&self, spin: bool, lanes: usize) -> Outcome<Measured> {
        let numbers = [self.count, self.batch, self.threads()?].map(|number| number.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare").args([&self.model, &self.ort_lib]).args(numbers).arg(spin.to_string());
        command.args(["--device", &self.device.to_string(), "--lanes", &lanes.to_string()]);
        command.args(["--precision", &self.precision.to_string()]);
        if let Some(engines) = &self.engine_cache {
            let engines = engines.join("bare");
            std::fs::create_dir_all(&engines)?;
            command.arg("--engine-cache").arg(engines);
        }
        let busy = Busy::watch(self.device.cards());
        let output = command.output()?;
        let busy = busy.mean();
        match output.status.success() {
            true => Ok(Measured { rate: String::from_utf8(output.stdout)?.trim().parse()?, busy }),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    }
}

pub fn run(args: &Args) -> Outcome<()> {
    let dir = args.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    folder_of(&args.pictures, args.count, &dir.path().join("pictures"))?;
    let model = model_in(&args.model, JpegScale::Exact, args.precision)?;
    let threads = args.threads()?;
    let say = |text: String| {
        if !args.row {
            println!("{text}");
        }
    };
    say(format!(
        "pictures per second; {} in batches of {}, {threads} threads, {} lanes on {}",
        args.count, args.batch, args.lanes, args.device
    ));
    let (mut ratios, mut bares, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare_busy, mut run_busy) = (Vec::new(), Vec::new());
    let mut last = None;
    for round in 0..args.rounds {
        // Spinning is about the threads of the processor.
        let spins: &[bool] = if args.device.is_gpu() { &[false] } else { &[false, true] };
        // As many lanes as the run, and one: the better of them is what there is to be had.
        let lanes: &[usize] = if args.lanes == 1 { &[1] } else { &[1, args.lanes] };
        let mut best = Measured { rate: 0.0, busy: None };
        for (spin, lanes) in spins.iter().flat_map(|spin| lanes.iter().map(move |lanes| (*spin, *lanes))) {
            let found = args.bare(spin, lanes)?;
            say(format!("bare, {lanes} lanes{}: {:.2}", if spin { ", spinning" } else { "" }, found.rate));
            if found.rate > best.rate {
                best = found;
            }
        }
        let backend = BackendOptions {
            choice: BackendChoice::OnnxRuntime,
            ort_lib: Some(args.ort_lib.clone()),
            threads,
            device: args.device.clone(),
            batch: args.batch,
            engines: args.engine_cache.clone(),
            ..BackendOptions::default()
        };
        // Loading the model is not what is compared.
        let encoders = open_lanes(&model, &backend, Some(args.lanes))?;
        let store = dir.path().join(format!("{round}.vecs"));
        let embedder =
            Embedder::builder(&model).batch(args.batch).workers(args.workers).encoders(encoders).build();
        let run = Run::new(Files::new(dir.path().join("pictures")), &store);
        let busy = Busy::watch(args.device.cards());
        let summary = run.run(&embedder)?;
        let busy = busy.mean();
        check(&summary, args.count)?;
        let rate = args.count as f64 / summary.elapsed.as_secs_f64();
        say(format!("run {rate:.2}   {:.3} of the best bare", rate / best.rate));
        ratios.push(rate / best.rate);
        bares.push(best.rate);
        rates.push(rate);
        bare_busy.extend(best.busy);
        run_busy.extend(busy);
        last = Some(summary);
    }
    if args.row {
        let share = |shares: &[f64]| match shares {
            [] => "-".to_owned(),
            shares => format!("{:.0} %", median(shares)),
        };
        println!(
            "| {} | {} | {} | {} | {} | {:.1} | {:.1} | **{:.3}** | {} | {} |",
            args.model.file_stem().unwrap_or_default().to_string_lossy(),
            args.device,
            args.precision,
            args.batch,
            args.lanes,
            median(&bares),
            median(&rates),
            median(&ratios),
            share(&bare_busy),
            share(&run_busy),
        );
        return Ok(());
    }
    println!("median: {:.3}", median(&ratios));
    if let Some(summary) = last {
        let storing = summary.stages.commit.working.as_secs_f64() / summary.elapsed.as_secs_f64();
        println!("last run:\n    {}", shares(&summary.stages));
        println!("    storing: {} commits, {:.2} % of the run's time", summary.commits, 100.0 * storing);
    }
    Ok(())
}

//! `vecstore-embed doctor`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::thread;

use clap::{Args, value_parser};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use vecstore_embed::backend::{Placement, Provider};
use vecstore_embed::doctor::{
    Apart, Limit, LoadedLibrary, Options, Pictures, Report, Surroundings, examine, surroundings,
};

use super::EXIT_FAILED;
use super::model_args::{MachineArgs, ModelArgs};
use super::output::{Failure, Outcome, print, print_json};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed doctor
  vecstore-embed doctor --model clip/model.onnx --device cuda --batch-size 128
  vecstore-embed doctor --model clip/model.onnx --device tensorrt:0,1 --precision fp16 --folder photos --json

Says which library, which driver and which cards there are; loads the model with the given options; counts
where its operators run; compares a batch with the same pictures one at a time, and a card with the
processor; and measures each stage by itself. Give it the options of the run that is in question. Nothing is
stored. Exit codes: 0 all is well, 1 failed, or a batch gives other vectors than single
pictures, or a card than the processor, 2 wrong use of the command line.";

/// Show what a run would use on this machine, whether it computes what it should, and how fast each stage is
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Take pictures from this folder and the folders in it, instead of made ones of 1024 x 768
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// How many pictures
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = value_parser!(u16).range(1..=4096))]
    pictures: u16,
    /// Pictures per inference
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    /// Models on each card, or on the processor; as for run
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=64))]
    lanes: Option<u16>,
    /// Threads that decode; as many as processors unless given
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// How long each stage is measured
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    seconds: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn doctor(args: &DoctorArgs) -> Outcome {
    let around = surroundings(&args.machine.backend());
    if !args.json {
        // Before anything else: this is what one needs to know if the rest fails.
        print(around_text(&around))?;
    }
    let (name, report) = match examination(args) {
        Ok(found) => found,
        Err(error) if args.json => {
            let mut found = around_json(&around);
            found["error"] = json!(error.to_string());
            print_json(&found)?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let on_gpu = args.machine.device().is_gpu();
    if args.json {
        let mut found = around_json(&around);
        add_report(&mut found, &name, &report, on_gpu);
        print_json(&found)?;
    } else {
        print(report_text(&name, &report, args, on_gpu))?;
    }
    let is_right = report.batch.is_same() && report.processor.as_ref().is_none_or(Apart::is_same);
    Ok(if is_right { 0 } else { EXIT_FAILED })
}

fn examination(args: &DoctorArgs) -> Result<(String, Report), Failure> {
    let model = args.model.spec()?.load()?;
    let count = args.pictures.into();
    let pictures = match &args.folder {
        Some(folder) => Pictures::of_folder(folder, count)?,
        None => Pictures::made(count),
    };
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options::new(args.batch_size.into(), args.workers.map_or_else(cores, usize::from));
    options.lanes = args.lanes.map(usize::from);
    options.seconds = args.seconds;
    options.limits = args.machine.limits();
    let report = examine(&model, &args.machine.backend(), &pictures, &options)?;
    Ok((model.name().to_owned(), report))
}

fn called(provider: Provider) -> &'static str {
    match provider {
        Provider::Cuda => "cuda",
        Provider::TensorRt => "tensorrt",
        _ => "cpu",
    }
}

fn listed(providers: &[Provider]) -> String {
    providers.iter().map(|provider| called(*provider)).collect::<Vec<_>>().join(", ")
}

/// Writes a line that begins with what it is about. Writing to a String cannot fail.
fn line(text: &mut String, about: &str, what: &str) {
    let _ = writeln!(text, "{about:<11}{what}");
}

fn around_text(around: &Surroundings) -> String {
    let mut text = String::new();
    for library in &around.libraries {
        let found = match &library.version {
            Ok(version) => format!("ONNX Runtime {version}, for {}", listed(&library.built_for)),
            Err(found) => format!("cannot be used: {found}"),
        };
        line(&mut text, "library", &format!("{}: {found}", library.path.display()));
    }
    if around.libraries.is_empty() {
        line(&mut text, "library", "no ONNX Runtime in the usual places, and none named");
    }
    match &around.driver {
        Ok(driver) => {
            line(&mut text, "driver", &format!("for CUDA {}.{}", driver.cuda.0, driver.cuda.1));
            for (number, card) in driver.cards.iter().enumerate() {
                let (major, minor) = card.capability;
                let memory = HumanBytes(card.memory);
                line(
                    &mut text,
                    "card",
                    &format!("{number}: {}, {memory}, compute capability {major}.{minor}", card.name),
                );
            }
        }
        Err(none) => line(&mut text, "driver", &format!("{}; {}", none.found, none.remedy)),
    }
    text
}

fn around_json(around: &Surroundings) -> Value {
    let libraries: Vec<Value> = around
        .libraries
        .iter()
        .map(|library| {
            let built_for: Vec<&str> = library.built_for.iter().map(|provider| called(*provider)).collect();
            json!({
                "path": library.path.to_string_lossy(),
                "version": library.version.as_ref().ok(),
                "unusable": library.version.as_ref().err(),
                "built_for": built_for,
            })
        })
        .collect();
    let driver = match &around.driver {
        Ok(driver) => {
            let cards: Vec<Value> = driver
                .cards
                .iter()
                .map(|card| {
                    let (major, minor) = card.capability;
                    let capability = format!("{major}.{minor}");
                    json!({"name": card.name, "memory": card.memory, "capability": capability})
                })
                .collect();
            json!({"cuda": format!("{}.{}", driver.cuda.0, driver.cuda.1), "cards": cards})
        }
        Err(none) => json!({"missing": none.found, "remedy": none.remedy}),
    };
    json!({"libraries": libraries, "driver": driver})
}

fn apart(apart: &Apart) -> String {
    let verdict = if apart.is_same() { "the same" } else { "NOT THE SAME" };
    format!("lowest cosine {:.6}, largest difference {:.1e}: {verdict}", apart.cosine, apart.difference)
}

fn nodes(placement: &Placement) -> String {
    let counted: Vec<String> =
        placement.nodes.iter().map(|(provider, count)| format!("{count} by {provider}")).collect();
    counted.join(", ")
}

fn report_text(name: &str, report: &Report, args: &DoctorArgs, on_gpu: bool) -> String {
    let mut text = String::new();
    line(&mut text, "model", &format!("{name}, vectors of {}", report.dim));
    line(&mut text, "backend", &report.backend);
    if let Some(LoadedLibrary { providers, .. }) = &report.library {
        line(&mut text, "offers", &listed(providers));
    }
    match &report.placement {
        Some(placement) => {
            line(&mut text, "operators", &nodes(placement));
            if on_gpu && !placement.on_cpu.is_empty() {
                let kinds: Vec<&str> = placement.on_cpu.iter().map(String::as_str).collect();
                line(&mut text, "", &format!("left to the processor: {}", kinds.join(", ")));
            }
        }
        None => line(&mut text, "operators", "all by the backend itself, on the processor"),
    }
    let batch = &report.batch;
    line(&mut text, "batch", &format!("of {} against one at a time: {}", batch.pictures, apart(batch)));
    if let Some(processor) = &report.processor {
        line(&mut text, "device", &format!("against the processor: {}", apart(processor)));
    }
    let rates = &report.rates;
    line(&mut text, "decode", &format!("{:.1} pictures a second by one thread", rates.decode));
    line(&mut text, "resize", &format!("{:.1} by one thread", rates.resize));
    let workers = args.workers.map_or_else(|| "all".to_owned(), |workers| workers.to_string());
    line(&mut text, "both", &format!("{:.1} by {workers} threads", rates.prepare));
    let lanes = if report.lanes == 1 { "1 lane".to_owned() } else { format!("{} lanes", report.lanes) };
    let of = format!("in batches of {}, {lanes}; {:.1} bare in one", args.batch_size, rates.bare);
    line(&mut text, "infer", &format!("{:.1} {of}", rates.infer));
    line(&mut text, "limit", &advice(report, on_gpu));
    text
}

/// Which stage limits a run, and what might help.
fn advice(report: &Report, on_gpu: bool) -> String {
    let (limit, most) = report.rates.limit(on_gpu);
    let what = match (limit, on_gpu) {
        (Limit::Prepare, true) => {
            "decoding and resizing: the card waits for pictures. More cores help, or --jpeg scaled, or \
             pictures that are stored smaller; a second card does not"
        }
        (Limit::Prepare, false) => {
            "decoding and resizing take most of the processor's time: --jpeg scaled helps, or pictures that \
             are stored smaller; a card would help little"
        }
        (_, true) => {
            "the model: the card is busy. A larger --batch-size may help, a model in fp16, --device tensorrt \
             with --precision fp16, or another card"
        }
        (_, false) if report.backend == "plain Rust" => {
            "the model takes most of the processor's time: the built-in one is computed by the processor \
             alone, so more cores help"
        }
        (_, false) if report.backend.starts_with("tract") => {
            "the model takes most of the processor's time: ONNX Runtime is 1.4 to 4 times as fast as tract \
             (pip install onnxruntime, and --ort-lib), and a card faster still"
        }
        _ => {
            "the model takes most of the processor's time: a card would help (--device cuda), or a smaller \
             model"
        }
    };
    format!("{what}. At most {most:.1} pictures a second")
}

fn add_report(found: &mut Value, name: &str, report: &Report, on_gpu: bool) {
    let apart = |apart: &Apart| {
        json!({
            "pictures": apart.pictures,
            "lowest_cosine": apart.cosine,
            "largest_difference": apart.difference,
            "same": apart.is_same(),
        })
    };
    let (limit, most) = report.rates.limit(on_gpu);
    found["model"] = json!(name);
    found["dim"] = json!(report.dim);
    found["backend"] = json!(report.backend);
    found["lanes"] = json!(report.lanes);
    found["library"] =
        json!(report.library.as_ref().map(|LoadedLibrary { path, version, providers, .. }| {
            let providers: Vec<&str> = providers.iter().map(|provider| called(*provider)).collect();
            json!({"path": path.to_string_lossy(), "version": version, "providers": providers})
        }));
    found["operators"] = json!(
        report
            .placement
            .as_ref()
            .map(|placement| { json!({"by_provider": placement.nodes, "kinds_on_cpu": placement.on_cpu}) })
    );
    found["batch"] = apart(&report.batch);
    found["processor"] = json!(report.processor.as_ref().map(apart));
    found["pictures_per_second"] = json!({
        "decode_one_thread": report.rates.decode,
        "resize_one_thread": report.rates.resize,
        "prepare": report.rates.prepare,
        "infer": report.rates.infer,
        "bare": report.rates.bare,
        "at_most": most,
    });
    found["limit"] = json!(if limit == Limit::Prepare { "prepare" } else { "infer" });
    found["advice"] = json!(advice(report, on_gpu));
}

//! `vecstore-embed doctor`.

use std::fmt::{Display, Write as _};
use std::path::PathBuf;
use std::thread;

use clap::{Args, value_parser};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use vecstore_embed::backend::{Card, Driver, Library, Provider};
use vecstore_embed::doctor::{Apart, Limit, Options, Pictures, Report, Surroundings, examine, surroundings};

use super::EXIT_FAILED;
use super::model_args::ModelArgs;
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
}

pub(crate) fn doctor(args: &DoctorArgs) -> Outcome {
    let around = surroundings(&args.model.machine.backend());
    if !args.json {
        // Before anything else: this is what one needs to know if the rest fails.
        print(around_text(&around))?;
    }
    let report = examination(args);
    if args.json {
        let mut found = match &report {
            Ok(report) => json!(report),
            Err(error) => json!({"error": error.to_string()}),
        };
        add_around(&mut found, &around);
        if let Ok(report) = &report {
            found["advice"] = json!(advice(report));
        }
        print_json(&found)?;
    }
    let report = report?;
    if !args.json {
        print(report_text(&report, args))?;
    }
    let is_right = report.batch.same && report.processor.as_ref().is_none_or(|apart| apart.same);
    Ok(if is_right { 0 } else { EXIT_FAILED })
}

fn examination(args: &DoctorArgs) -> Result<Report, Failure> {
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
    options.limits = args.model.machine.limits();
    Ok(examine(&model, &args.model.machine.backend(), &pictures, &options)?)
}

fn called(providers: &[Provider]) -> String {
    providers.iter().map(Provider::to_string).collect::<Vec<_>>().join(", ")
}

/// A version, or a capability.
fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// Writes a line that begins with what it is about. Writing to a String cannot fail.
fn line(text: &mut String, about: &str, what: impl Display) {
    let _ = writeln!(text, "{about:<11}{what}");
}

fn around_text(around: &Surroundings) -> String {
    let mut text = String::new();
    for library in &around.libraries {
        let found = match &library.version {
            Ok(version) => format!("ONNX Runtime {version}, for {}", called(&library.built_for)),
            Err(found) => format!("cannot be used: {found}"),
        };
        line(&mut text, "library", format_args!("{}: {found}", library.path.display()));
    }
    if around.libraries.is_empty() {
        line(&mut text, "library", "no ONNX Runtime in the usual places, and none named");
    }
    match &around.driver {
        Ok(driver) => {
            line(&mut text, "driver", format_args!("for CUDA {}", dotted(driver.cuda)));
            for (number, card) in driver.cards.iter().enumerate() {
                let (memory, capability) = (HumanBytes(card.memory), dotted(card.capability));
                let what = format!("{number}: {}, {memory}, compute capability {capability}", card.name);
                line(&mut text, "card", what);
            }
        }
        Err(none) => line(&mut text, "driver", format_args!("{}; {}", none.found, none.remedy)),
    }
    text
}

fn add_around(found: &mut Value, around: &Surroundings) {
    let library = |Library { path, version, built_for, .. }: &Library| {
        let (path, version, unusable) =
            (path.to_string_lossy(), version.as_ref().ok(), version.as_ref().err());
        json!({"path": path, "version": version, "unusable": unusable, "built_for": built_for})
    };
    let card = |card: &Card| {
        let capability = dotted(card.capability);
        json!({"name": card.name, "memory": card.memory, "capability": capability})
    };
    found["libraries"] = around.libraries.iter().map(library).collect();
    found["driver"] = match &around.driver {
        Ok(Driver { cuda, cards, .. }) => {
            json!({"cuda": dotted(*cuda), "cards": cards.iter().map(card).collect::<Vec<_>>()})
        }
        Err(none) => json!({"missing": none.found, "remedy": none.remedy}),
    };
}

fn report_text(report: &Report, args: &DoctorArgs) -> String {
    let mut text = String::new();
    let apart = |apart: &Apart| {
        let verdict = if apart.same { "the same" } else { "NOT THE SAME" };
        format!("lowest cosine {:.6}, largest difference {:.1e}: {verdict}", apart.cosine, apart.difference)
    };
    line(&mut text, "model", format_args!("{}, vectors of {}", report.model, report.dim));
    line(&mut text, "backend", &report.backend);
    if let Some(library) = &report.library {
        line(&mut text, "offers", called(&library.providers));
    }
    match &report.placement {
        Some(placement) => {
            let counted = placement.nodes.iter().map(|(provider, count)| format!("{count} by {provider}"));
            line(&mut text, "operators", counted.collect::<Vec<_>>().join(", "));
            if report.is_on_card() && !placement.on_cpu.is_empty() {
                let kinds: Vec<&str> = placement.on_cpu.iter().map(String::as_str).collect();
                line(&mut text, "", format_args!("left to the processor: {}", kinds.join(", ")));
            }
        }
        None => line(&mut text, "operators", "all by the backend itself, on the processor"),
    }
    let (batch, rates) = (&report.batch, &report.rates);
    line(&mut text, "batch", format_args!("of {} against one at a time: {}", batch.pictures, apart(batch)));
    if let Some(processor) = &report.processor {
        line(&mut text, "device", format_args!("against the processor: {}", apart(processor)));
    }
    line(&mut text, "decode", format_args!("{:.1} pictures a second by one thread", rates.decode));
    line(&mut text, "resize", format_args!("{:.1} by one thread", rates.resize));
    let workers = args.workers.map_or_else(|| "all".to_owned(), |workers| workers.to_string());
    line(&mut text, "both", format_args!("{:.1} by {workers} threads", rates.prepare));
    let lanes = if report.lanes == 1 { "1 lane".to_owned() } else { format!("{} lanes", report.lanes) };
    let of = format!("in batches of {}, {lanes}; {:.1} bare in one", args.batch_size, rates.bare);
    line(&mut text, "infer", format_args!("{:.1} {of}", rates.infer));
    line(&mut text, "limit", advice(report));
    text
}

/// Which stage limits a run, and what might help.
fn advice(report: &Report) -> String {
    let limit = match (report.limit, report.is_on_card()) {
        (Limit::Prepare, true) => "decoding and resizing: the card waits for pictures",
        (Limit::Prepare, false) => "decoding and resizing take most of the processor's time",
        (_, true) => "the model: the card is busy",
        (_, false) => "the model takes most of the processor's time",
    };
    let help = match (report.limit, report.is_on_card(), &report.backend[..]) {
        (Limit::Prepare, true, _) => {
            "more cores help, --jpeg scaled, or smaller files; a second card does not"
        }
        (Limit::Prepare, ..) => "--jpeg scaled helps, or smaller files; a card would help little",
        (_, true, _) => "a larger --batch-size may help, --device tensorrt --precision fp16, or another card",
        (.., "plain Rust") => "the built-in one is computed by the processor alone, so more cores help",
        (.., name) if name.starts_with("tract") => {
            "ONNX Runtime (pip install onnxruntime, and --ort-lib) is 1.4 to 4 times as fast, a card more"
        }
        _ => "a card would help (--device cuda), or a smaller model",
    };
    format!("{limit}; {help}. At most {:.1} pictures a second", report.rates.at_most)
}

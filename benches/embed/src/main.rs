//! A run of `vecstore-embed` against the bare work that it cannot do without, in turn in the same run:
//!
//! - `embed infer`: the model alone, in a loop over tensors that are in memory already, through ONNX Runtime
//!   itself;
//! - `embed decode`: reading, decoding and resizing alone, on every core; with small pictures, what the
//!   pipeline costs;
//! - `embed listing`: finding out that everything is done;
//! - `embed job`: the program as users start it, on folders of small pictures that it makes.
//!
//! `embed levels` writes what pictures become, for `scripts/check-pillow`; `embed drift` compares vectors.
//! `benches/embed/inputs.py` makes the pictures and models; `benches/embed/python.py` does the work of
//! `decode` with Pillow and with OpenCV.

mod busy;
mod decode;
mod infer;
mod job;
mod listing;
mod pixels;
mod runs;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use vecstore_embed::image::preprocess::{JpegScale, Resize, Sides};
use vecstore_embed::{Model, OutputOptions, Precision, PreprocessOverrides};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "A run of vecstore-embed against the bare work that it cannot do without")]
enum Command {
    /// A run that is bound by its model, against a loop of bare ONNX Runtime calls
    Infer(infer::Args),
    /// A run that is bound by decoding, against a bare loop of decoding and resizing on all cores; with
    /// prepared small pictures, the rate of the pipeline itself
    Decode(decode::Args),
    /// A run that finds everything done
    Listing(listing::Args),
    /// The program on folders of small pictures: times and memory of the first run and of one that finds all
    /// done
    Job(job::Args),
    /// Writes the prepared levels of pictures, for `scripts/check-pillow`
    Levels(pixels::Levels),
    /// The vectors of exactly decoded pictures against those of pictures decoded smaller
    Drift(pixels::Drift),
    /// One round of bare ONNX Runtime calls; `infer` starts it in a process of its own
    #[command(hide = true)]
    Bare(infer::Bare),
}

/// Pictures prepared as for CLIP: shortest edge 224 by a bicubic filter, the centre cut out.
fn clip(jpeg: JpegScale) -> PreprocessOverrides {
    PreprocessOverrides {
        size: Some(Resize::ShortestEdge(224)),
        crop: Some(Sides { height: 224, width: 224 }),
        mean: Some([0.481_454_66, 0.457_827_5, 0.408_210_73]),
        std: Some([0.268_629_54, 0.261_302_6, 0.275_777_1]),
        jpeg: Some(jpeg),
        ..PreprocessOverrides::default()
    }
}

/// The model at `path`, for pictures prepared like this.
fn model(path: &Path, jpeg: JpegScale) -> Outcome<Model> {
    model_in(path, jpeg, Precision::Full)
}

/// The same, computed like that.
fn model_in(path: &Path, jpeg: JpegScale, precision: Precision) -> Outcome<Model> {
    let output = OutputOptions { precision, ..OutputOptions::default() };
    Ok(Model::from_file_with(path, &clip(jpeg), &output)?)
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Infer(args) => infer::run(&args),
        Command::Decode(args) => decode::run(&args),
        Command::Listing(args) => listing::run(&args),
        Command::Job(args) => job::run(&args),
        Command::Levels(args) => pixels::levels(&args),
        Command::Drift(args) => pixels::drift(&args),
        Command::Bare(args) => infer::bare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

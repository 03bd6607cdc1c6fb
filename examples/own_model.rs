//! `own_model MODEL.onnx FOLDER STORE`: embeds pictures with an ONNX model, in a program that needs nothing
//! installed.
//!
//! The engine is tract, part of this program: in your `Cargo.toml`,
//! `vecstore-embed = { path = "…", default-features = false, features = ["tract"] }`. How pictures are
//! prepared is read from the `preprocessor_config.json` beside the model.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use vecstore_embed::{BackendChoice, Embedder, Files, Model, PreprocessOverrides, Run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder, store] = &arguments[..] else {
        eprintln!("usage: own_model MODEL.onnx FOLDER STORE");
        return ExitCode::from(2);
    };
    match run(model.as_ref(), folder.as_ref(), store.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("own_model: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(model: &Path, folder: &Path, store: &Path) -> Result<(), Box<dyn Error>> {
    let model = Model::from_file(model, &PreprocessOverrides::default(), None)?;
    let embedder = Embedder::builder(&model).engine(BackendChoice::Tract).build();

    // Embeds the pictures below the folder that the store lacks. Killed at any moment and run again, it
    // continues.
    let done = Run::new(Files::new(folder).with_recursive(true), store).run(&embedder)?;
    println!("{} embedded, {} rejected, {} already there", done.embedded, done.rejected, done.already);

    // The store remembers the model: vectors of another one are refused.
    let snapshot = vecstore::Reader::open(store)?.snapshot();
    println!("{} rows of {} numbers, by {}", snapshot.totals().rows, snapshot.dim(), model.name());
    Ok(())
}

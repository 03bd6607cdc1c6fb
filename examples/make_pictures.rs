//! `make_pictures DIR COUNT [--size 160x120] [--seed 1] [--folders 10]`
//!
//! Fills DIR with COUNT small, distinct jpegs in sub-folders, for load tests: about a millisecond each. The
//! same seed gives the same pictures, and picture n does not depend on COUNT.

use std::error::Error;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vecstore_examples::args::{Args, failed, wrong_use};
use vecstore_examples::painting::{Scene, Subject};
use vecstore_examples::photos::jpeg;
use vecstore_examples::random::mix;

const USAGE: &str = "make_pictures DIR COUNT [--size 160x120] [--seed 1] [--folders 10]";

struct Options {
    dir: String,
    count: u64,
    size: (u32, u32),
    seed: u64,
    folders: u64,
}

fn options() -> Result<Options, String> {
    let args = Args::from_env(2, &["size", "seed", "folders"])?;
    let size: String = args.option("size", String::from("160x120"))?;
    let sides = size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let in_range = |side: &u32| (1..=4096).contains(side);
    let folders = args.option("folders", NonZero::<u64>::MIN.saturating_add(9))?;
    Ok(Options {
        dir: args.positional(0).to_owned(),
        count: args.number(1, "COUNT")?,
        size: sides
            .filter(|(width, height)| in_range(width) && in_range(height))
            .ok_or(format!("--size is '{size}', expected WIDTHxHEIGHT, each 1 to 4096"))?,
        seed: args.option("seed", 1)?,
        folders: folders.get(),
    })
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => return wrong_use(USAGE, why),
    };
    match make(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(format_args!("make_pictures: {}: {why}", options.dir)),
    }
}

fn make(options: &Options) -> Result<(), Box<dyn Error + Send + Sync>> {
    let dir = Path::new(&options.dir);
    for folder in 0..options.folders.min(options.count) {
        fs::create_dir_all(dir.join(format!("folder-{folder:03}")))?;
    }
    let next = AtomicU64::new(0);
    let work = || -> Result<(), Box<dyn Error + Send + Sync>> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.count {
                return Ok(());
            }
            let subject = Subject::ALL[(number % 4) as usize];
            let scene = Scene::new(subject, mix(options.seed) ^ number);
            let name = format!("folder-{:03}/picture-{number:06}.jpg", number % options.folders);
            fs::write(dir.join(name), jpeg(&scene.paint(options.size.0, options.size.1), 85)?)?;
        }
    };
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a painter panicked")?)
    })
}

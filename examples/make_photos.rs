//! `make_photos [--dir examples/photos]`
//!
//! Makes the pictures in `examples/photos` again, byte for byte.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use vecstore_examples::args::{Args, failed, wrong_use};
use vecstore_examples::photos::photos;

fn main() -> ExitCode {
    let dir = match Args::from_env(0, &["dir"])
        .and_then(|args| args.option("dir", String::from("examples/photos")))
    {
        Ok(dir) => dir,
        Err(why) => return wrong_use("make_photos [--dir examples/photos]", why),
    };
    match make(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(format_args!("make_photos: {dir}: {why}")),
    }
}

fn make(dir: &Path) -> Result<(), Box<dyn Error>> {
    for (path, bytes) in photos()? {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, bytes)?;
    }
    Ok(())
}

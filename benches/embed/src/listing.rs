//! A run that finds everything done.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use vecstore_embed::{Embedder, Files, Model, Run};

use crate::Outcome;
use crate::decode::Nothing;
use crate::runs::check;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 200_000)]
    files: usize,
    #[arg(long, default_value_t = 10_000)]
    folders: usize,
    /// Where files and store are written
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Most memory used so far, and anonymous memory now, in MiB. Linux only.
fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (field("VmHWM:"), field("RssAnon:"))
}

pub fn run(args: &Args) -> Outcome<()> {
    let dir = args.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    let (files, path) = (dir.path().join("files"), dir.path().join("files.vecs"));
    let model = Model::builtin()?;
    // A picture of one pixel, as small as BMP gets.
    let mut picture = b"BM:\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
    picture.resize(54, 0);
    picture.extend([0, 0, 255, 0]);
    let per_folder = args.files.div_ceil(args.folders.max(1));
    let mut made = 0;
    for folder in 0..args.folders {
        let folder = files.join(format!("person_{folder:05}"));
        fs::create_dir_all(&folder)?;
        for file in 0..per_folder.min(args.files - made) {
            fs::write(folder.join(format!("{file:04}.bmp")), &picture)?;
            made += 1;
        }
    }
    let run = Run::new(Files::new(&files).with_recursive(true), &path).with_commit_rows(1000);
    let first = run.run(&Embedder::builder(&model).encoders(vec![Box::new(Nothing::new(8))]).build())?;
    check(&first, made)?;
    let (most, now) = memory();
    println!(
        "{made} files in {} folders embedded in {:.1} s by a model that takes no time; {now} MiB anonymous \
         memory, at most {most} MiB in all",
        args.folders,
        first.elapsed.as_secs_f64()
    );
    for _ in 0..3 {
        let began = Instant::now();
        let summary = run.run(&Embedder::builder(&model).build())?;
        let took = began.elapsed();
        if summary.already != made as u64 || !summary.is_complete() {
            return Err(format!("{summary:?}").into());
        }
        let (most, now) = memory();
        println!(
            "found all done in {:.2} s; {now} MiB anonymous memory, at most {most} MiB in all",
            took.as_secs_f64()
        );
    }
    Ok(())
}

//! A run that finds everything done.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use vecstore::{OnDuplicate, Store, StoreConfig};
use vecstore_embed::{Model, Run};

use crate::Outcome;

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
    let config = StoreConfig::new(8).fingerprint(model.fingerprint().clone());
    let store = Store::create(&path, config)?;
    let per_folder = args.files.div_ceil(args.folders.max(1));
    let mut made = 0;
    let mut batch = store.batch();
    for folder in 0..args.folders {
        let folder_name = format!("person_{folder:05}");
        fs::create_dir_all(files.join(&folder_name))?;
        for file in 0..per_folder.min(args.files - made) {
            let key = format!("{folder_name}/{file:04}.jpg");
            fs::write(files.join(&key), "")?;
            batch.push(&key, &[0.5_f32; 8])?;
            made += 1;
        }
        if batch.len() >= 1000 {
            store.append(std::mem::replace(&mut batch, store.batch()), OnDuplicate::Skip)?;
        }
    }
    store.append(batch, OnDuplicate::Skip)?;
    store.close()?;
    let (_, before) = memory();
    println!("{made} files in {} folders, all of them stored; {before} MiB anonymous memory", args.folders);
    let run = Run::new(&files, &path).with_recursive(true);
    for _ in 0..3 {
        let began = Instant::now();
        let summary = run.run(&model)?;
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

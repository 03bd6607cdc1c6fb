//! What the benchmarks of runs share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vecstore_embed::{Stages, Summary};

use crate::Outcome;

/// A folder with `count` names for the pictures in `from`, in turn: links, so that they take no room.
pub fn folder_of(from: &Path, count: usize, into: &Path) -> Outcome<Vec<PathBuf>> {
    let mut pictures: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_file() {
            pictures.push(path);
        }
    }
    pictures.sort();
    if pictures.is_empty() {
        return Err(format!("{}: no pictures in this folder", from.display()).into());
    }
    fs::create_dir_all(into)?;
    let mut paths = Vec::with_capacity(count);
    for (at, picture) in (0..count).zip(pictures.iter().cycle()) {
        let extension = picture.extension().map_or("jpg".into(), |extension| extension.to_string_lossy());
        let path = into.join(format!("{at:06}.{extension}"));
        if fs::hard_link(picture, &path).is_err() {
            fs::copy(picture, &path)?;
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Processor time of this process so far, in seconds: what other programs on the machine do counts for less
/// in it than in the time on the wall. Linux only, to a hundredth.
pub fn processor() -> f64 {
    ticks(11)
}

/// That of the programs it started, which have ended.
pub fn processor_of_ended() -> f64 {
    ticks(13)
}

/// A time for itself and one for the system, behind the name.
fn ticks(first: usize) -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = after_name.split_whitespace().skip(first).take(2);
    times.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0)).sum::<f64>() / 100.0
}

/// What `work` gives, and the processor time it took.
pub fn with_processor<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, f64)> {
    let before = processor();
    let done = work()?;
    Ok((done, processor() - before))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of the stages of a run: how long each was busy, as a share of its threads' time.
pub fn shares(stages: &Stages) -> String {
    let each = stages.each().map(|(stage, times)| {
        let of = |time: Duration| 100.0 * time.as_secs_f64() / times.total().as_secs_f64().max(1e-9);
        format!(
            "{stage}: busy {:.1} %, waited for input {:.1} %, for output {:.1} %",
            100.0 * times.busy(),
            of(times.waited_for_input),
            of(times.waited_for_output)
        )
    });
    each.join("\n    ")
}

/// Fails unless `summary` is of a run that embedded all of `count`.
pub fn check(summary: &Summary, count: usize) -> Outcome<()> {
    match summary.embedded == count as u64 && summary.is_complete() {
        true => Ok(()),
        false => Err(format!("{} of {count} pictures were embedded", summary.embedded).into()),
    }
}

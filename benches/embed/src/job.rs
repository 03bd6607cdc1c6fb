//! The job of users: folders of pictures, embedded once, and looked through again.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

use crate::Outcome;

/// Sides of the pictures.
const SIDE: u32 = 96;

/// How often is looked how much memory the program uses.
const LOOK: Duration = Duration::from_millis(2);

#[derive(clap::Args)]
pub struct Args {
    /// FOLDERS:PICTURES, once for each job
    #[arg(long = "job", value_name = "FOLDERS:PICTURES", value_parser = shape)]
    #[arg(default_values = ["10:1000", "100:10000", "10000:200000"])]
    jobs: Vec<(usize, usize)>,
    /// The program
    #[arg(long, default_value = "target/release/vecstore-embed")]
    program: PathBuf,
    /// Where pictures and stores are written
    #[arg(long)]
    dir: Option<PathBuf>,
    /// More options of `run`, after `--`
    #[arg(last = true)]
    more: Vec<String>,
}

fn shape(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match numbers {
        Some((folders, pictures)) if folders > 0 && pictures >= folders => Ok((folders, pictures)),
        _ => {
            Err("expected FOLDERS:PICTURES such as 10:1000, with a picture or more in each folder".to_owned())
        }
    }
}

/// What one run of the program took. Memory is in MiB.
struct Took {
    seconds: f64,
    processor: f64,
    /// The most that was resident, mapped files and all.
    resident: f64,
    /// The most of its own in the first, and in the last quarter of the time.
    own: [f64; 2],
}

pub fn run(args: &Args) -> Outcome<()> {
    println!(
        "| folders | pictures | | seconds | pictures/s | processor | anonymous memory, first and last \
         quarter | resident, at most |"
    );
    println!("|---:|---:|---|---:|---:|---:|---:|---:|");
    for (folders, pictures) in &args.jobs {
        let dir = args.dir.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
        let photos = dir.path().join("photos");
        make(&photos, *folders, *pictures)?;
        for (name, field) in [("first run", "embedded"), ("run again", "already")] {
            let took = program(args, &photos, &dir.path().join("photos.vecs"), (field, *pictures))?;
            println!(
                "| {folders} | {pictures} | {name} | {:.2} | {:.0} | {:.1} s | {:.0} and {:.0} MiB \
                 | {:.0} MiB |",
                took.seconds,
                *pictures as f64 / took.seconds,
                took.processor,
                took.own[0],
                took.own[1],
                took.resident
            );
        }
    }
    Ok(())
}

/// JPEGs that differ, in folders as alike in size as can be.
fn make(photos: &Path, folders: usize, pictures: usize) -> Outcome<()> {
    for folder in 0..folders {
        fs::create_dir_all(photos.join(format!("person_{folder:05}")))?;
    }
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= pictures {
                return Ok(());
            }
            let mut bytes = Vec::new();
            let written = JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(&picture(at as u32));
            written.map_err(std::io::Error::other)?;
            let folder = photos.join(format!("person_{:05}", at % folders));
            fs::write(folder.join(format!("{:05}.jpg", at / folders)), bytes)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..thread::available_parallelism()?.get()).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a panic"))))
    })?;
    Ok(())
}

/// Squares of colours that belong to this number alone, one blended into the next.
fn picture(number: u32) -> RgbImage {
    const SQUARES: u32 = 6;
    const EACH: u32 = SIDE / SQUARES;
    let corner = |x: u32, y: u32, channel: u32| {
        let mixed =
            (number.wrapping_mul(151) + (y * (SQUARES + 1) + x) * 3 + channel).wrapping_mul(2_654_435_761);
        (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 24
    };
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (left, top, right, down) = (x / EACH, y / EACH, x % EACH, y % EACH);
        Rgb([0, 1, 2].map(|channel| {
            let across =
                |row| corner(left, row, channel) * (EACH - right) + corner(left + 1, row, channel) * right;
            ((across(top) * (EACH - down) + across(top + 1) * down) / (EACH * EACH)) as u8
        }))
    })
}

/// Runs the program, which has to account for all pictures in the field of its summary that has this name.
fn program(args: &Args, photos: &Path, store: &Path, (field, expected): (&str, usize)) -> Outcome<Took> {
    let began = Instant::now();
    let mut child = Command::new(&args.program)
        .args(["run", "--recursive", "--quiet", "--json", "--folder"])
        .arg(photos)
        .arg("--store")
        .arg(store)
        .args(&args.more)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            format!("{}: {error}; cargo build --release -p vecstore-embed makes it", args.program.display())
        })?;
    let (mut looks, mut resident, before) = (Vec::new(), 0.0f64, crate::runs::processor_of_ended());
    let status = loop {
        let pid = child.id();
        let own = field_of(pid, "RssAnon:");
        if own > 0.0 {
            looks.push((began.elapsed(), own));
            resident = resident.max(field_of(pid, "VmHWM:"));
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(LOOK);
    };
    let seconds = began.elapsed();
    let processor = crate::runs::processor_of_ended() - before;
    let mut summary = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut summary)?;
    }
    let digits = summary.split_once(&format!("\"{field}\":")).map_or("", |(_, rest)| rest);
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    let counted = digits.parse::<usize>().ok();
    if !status.success() || counted != Some(expected) {
        return Err(format!("{field}: expected {expected}, found {counted:?}, {status}: {summary}").into());
    }
    let most = |from: Duration, to: Duration| {
        let within = looks.iter().filter(|(at, _)| *at >= from && *at <= to);
        within.map(|(_, own)| *own).fold(0.0, f64::max)
    };
    let own = [most(Duration::ZERO, seconds / 4), most(seconds * 3 / 4, seconds)];
    Ok(Took { seconds: seconds.as_secs_f64(), processor, resident, own })
}

/// A field of what Linux says about the memory of a process, in MiB.
fn field_of(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

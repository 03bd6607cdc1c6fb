//! Three processes on one store, stopped, killed and started again while they work.
//!
//! Small by itself. `scripts/check-full embed` runs it with more: `VECSTORE_EMBED_PICTURES` says how many
//! pictures there are, `VECSTORE_EMBED_ROUNDS` how often something happens to one of the three.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use image::{Rgb, RgbImage};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{json, run_tiny};
use crate::common::{Place, assert_same, contents, random, seed, size};
use crate::fed::WATCHDOG;

/// Pictures per folder.
const IN_FOLDER: u32 = 20;

/// One picture in so many is damaged: the runs say when these are stored.
const DAMAGED: u32 = 7;

/// Folders of tiny pictures.
fn photos(place: &Place, count: u32) -> std::path::PathBuf {
    let photos = place.join("photos");
    for at in 0..count {
        let folder = photos.join(format!("{:04}", at / IN_FOLDER));
        std::fs::create_dir_all(&folder).unwrap();
        let picture = RgbImage::from_fn(24, 16, |x, y| {
            let mixed = at.wrapping_mul(2_654_435_761).rotate_left(x / 6 + y / 4) ^ (x * y);
            Rgb([mixed as u8, (mixed >> 8) as u8, (mixed >> 16) as u8])
        });
        let path = folder.join(format!("{at:06}.png"));
        match at % DAMAGED {
            3 => std::fs::write(path, "Dear diary").unwrap(),
            _ => picture.save(path).unwrap(),
        }
    }
    photos
}

/// What a run says: that something was stored, or that the one of this number has ended.
enum Said {
    Stored,
    Ended(usize),
}

/// The number of the next run.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A run whose words go where those of the others go.
struct Running {
    number: usize,
    child: Child,
    said: thread::JoinHandle<String>,
}

impl Running {
    fn start(photos: &Path, store: &Path, tell: &Sender<Said>) -> Self {
        let sizes = ["--workers=1", "--batch-size=8", "--chunk-size=10", "--commit-rows=4"];
        let more = [&["--quiet", "-v", "--json"], &sizes[..]].concat();
        let mut child =
            run_tiny(photos, store, &more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let tell = tell.clone();
        let said = thread::spawn(move || {
            let mut said = String::new();
            for line in lines.map_while(Result::ok) {
                said += &format!("{line}\n");
                if line.contains(": rejected: ") {
                    let _ = tell.send(Said::Stored);
                }
            }
            let _ = tell.send(Said::Ended(number));
            said
        });
        Running { number, child, said }
    }

    /// Its exit code, summary, and everything it said.
    fn ended(self) -> (Option<i32>, Vec<u8>, String) {
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), output.stdout, self.said.join().unwrap())
    }
}

/// Waits until so much was stored by any of them, or all have ended.
fn wait(running: &[Running], ended: &mut Vec<usize>, stored: u64, said: &Receiver<Said>) {
    let mut left = stored;
    while left > 0 && !running.iter().all(|run| ended.contains(&run.number)) {
        match said.recv_timeout(WATCHDOG).unwrap() {
            Said::Stored => left -= 1,
            Said::Ended(number) => ended.push(number),
        }
    }
}

fn status(store: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args(["status", "--json", "--store"]).arg(store);
    json(command)
}

#[test]
fn three_processes_that_are_stopped_and_killed_fill_the_store_an_undisturbed_one_would() {
    let pictures = size("VECSTORE_EMBED_PICTURES", 280, 1000);
    let rounds = size("VECSTORE_EMBED_ROUNDS", 5, 12);
    let place = Place::new();
    let (photos, store, alone) =
        (photos(&place, pictures), place.join("photos.vecs"), place.join("alone.vecs"));
    let (tell, said) = mpsc::channel();
    let (code, summary, words) = Running::start(&photos, &alone, &tell).ended();
    let undisturbed: Value = serde_json::from_slice(&summary).unwrap();
    let expected = contents(&alone);
    assert_eq!((code, &undisturbed["complete"]), (Some(0), &Value::from(true)), "{words}");
    assert_eq!(expected.len(), pictures as usize);
    said.try_iter().for_each(drop);

    let seed = seed();
    println!("{pictures} pictures, {rounds} rounds, seed {seed}");
    let (mut state, mut ended) = (seed, Vec::new());
    let mut running: Vec<Running> = (0..3).map(|_| Running::start(&photos, &store, &tell)).collect();
    // Spread over what there is to store, so that most of it happens while there is work.
    let most = u64::from(pictures / DAMAGED / rounds.max(1)).max(1);
    let mut happened: HashMap<&str, u32> = HashMap::new();
    for _ in 0..rounds {
        wait(&running, &mut ended, random(&mut state, most) + 1, &said);
        let one = &mut running[random(&mut state, 3) as usize];
        let (what, codes): (&str, &[Option<i32>]) =
            match (one.child.try_wait().unwrap(), random(&mut state, 3)) {
                (Some(_), _) => ("had ended", &[Some(0)]),
                (None, 0) => {
                    // It may have ended by itself before it heard of it.
                    let _ = kill_process(Pid::from_child(&one.child), Signal::TERM);
                    ("stopped", &[Some(75), Some(0), Some(143), None])
                }
                _ => {
                    one.child.kill().unwrap();
                    ("killed", &[None, Some(0)])
                }
            };
        *happened.entry(what).or_default() += 1;
        let (code, _, words) = std::mem::replace(one, Running::start(&photos, &store, &tell)).ended();
        assert!(codes.contains(&code), "{what}: {code:?} {words}; seed {seed}");
    }
    for one in running {
        let (code, summary, words) = one.ended();
        assert_eq!(code, Some(0), "{words}; seed {seed}");
        let summary: Value = serde_json::from_slice(&summary).unwrap();
        assert_eq!(
            summary["found"], pictures,
            "no run ends before all is accounted for: {summary}; seed {seed}"
        );
    }
    assert_same(&contents(&store), &expected);
    let status = status(&store);
    let runs = status["runs"].as_array().unwrap();
    let twice: u64 = runs.iter().map(|run| run["progress"]["overtaken"].as_u64().unwrap()).sum();
    println!("{happened:?}; {} runs, {twice} pictures embedded twice", runs.len());
    assert_eq!((&status["live"], twice), (&Value::from(0), 0), "{status}; seed {seed}");
}

//! Three processes on one store, stopped, killed and started again at moments nobody chose.
//!
//! Small by itself. `scripts/check-full embed` runs it with more: `VECSTORE_EMBED_PICTURES` says how many pictures there are,
//! `VECSTORE_EMBED_ROUNDS` how often something happens to one of the three.

use std::collections::HashMap;
use std::env;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::command::{json, run};
use crate::common::{Place, assert_same, contents};

/// Pictures per folder.
const IN_FOLDER: u32 = 20;

fn number(name: &str, otherwise: u32) -> u32 {
    env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// Folders of tiny pictures, and a damaged one now and then.
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
        match at % 97 {
            13 => std::fs::write(path, "Dear diary").unwrap(),
            _ => picture.save(path).unwrap(),
        }
    }
    photos
}

/// With a model that takes no time, so that it is about everything else.
fn start(photos: &Path, store: &Path) -> Child {
    let model = concat!("--model=", env!("CARGO_MANIFEST_DIR"), "/tests/models/plain.onnx");
    let more = [
        "--quiet",
        "--json",
        model,
        "--size=8x8",
        "--mean=0",
        "--std=1",
        "--workers=1",
        "--batch-size=8",
        "--chunk-size=10",
        "--commit-rows=40",
    ];
    run(photos, store, &more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn status(store: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args(["status", "--json", "--store"]).arg(store);
    json(command)
}

/// The next of a row of numbers below `below`, without a pattern (splitmix64).
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % below
}

#[test]
fn three_processes_that_are_stopped_and_killed_fill_the_store_an_undisturbed_one_would() {
    let (pictures, rounds) = (number("VECSTORE_EMBED_PICTURES", 1000), number("VECSTORE_EMBED_ROUNDS", 12));
    let place = Place::new();
    let (photos, store, alone) =
        (photos(&place, pictures), place.join("photos.vecs"), place.join("alone.vecs"));
    let began = Instant::now();
    let undisturbed: Value =
        serde_json::from_slice(&start(&photos, &alone).wait_with_output().unwrap().stdout).unwrap();
    let expected = contents(&alone);
    assert_eq!((expected.len(), &undisturbed["complete"]), (pictures as usize, &Value::from(true)));
    let undisturbed = began.elapsed();
    let seed = undisturbed.as_nanos() as u64;
    println!("{pictures} pictures, {rounds} rounds, {undisturbed:?} undisturbed, seed {seed}");
    let mut state = seed;

    let mut running: Vec<Child> = (0..3).map(|_| start(&photos, &store)).collect();
    // As long as an undisturbed run takes, so that most of it happens while there is work.
    let longest = (undisturbed / rounds.max(1)).as_millis().max(1) as u64;
    let mut happened: HashMap<&str, u32> = HashMap::new();
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(random(&mut state, longest)));
        let at = random(&mut state, 3) as usize;
        let child = &mut running[at];
        let (what, codes): (&str, &[Option<i32>]) = match (child.try_wait().unwrap(), random(&mut state, 3)) {
            (Some(_), _) => ("had ended", &[Some(0)]),
            (None, 0) => {
                // It may have ended by itself before it heard of it.
                Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
                ("stopped", &[Some(75), Some(0), Some(143), None])
            }
            _ => {
                child.kill().unwrap();
                ("killed", &[None, Some(0)])
            }
        };
        *happened.entry(what).or_default() += 1;
        let ended = std::mem::replace(child, start(&photos, &store)).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(codes.contains(&ended.status.code()), "{what}: {:?} {said}; seed {seed}", ended.status);
    }
    for child in running {
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{:?} {said}; seed {seed}", ended.status);
        let summary: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(
            summary["found"], pictures,
            "nobody goes before all is accounted for: {summary}; seed {seed}"
        );
    }
    assert_same(&contents(&store), &expected);
    let status = status(&store);
    let runs = status["runs"].as_array().unwrap();
    let twice: u64 = runs.iter().map(|run| run["progress"]["overtaken"].as_u64().unwrap()).sum();
    println!("{happened:?}; {} runs, {twice} pictures embedded twice", runs.len());
    assert_eq!((&status["live"], twice), (&Value::from(0), 0), "{status}; seed {seed}");
}

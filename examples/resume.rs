//! `resume [DIR]`: a job that was killed half-way continues where it stopped.
//!
//! The job embeds a thousand words. The program starts the job as a process, kills it in the middle with
//! SIGKILL, starts it again, and shows the store's content after each run. `resume work DIR` is the job
//! itself: kill and start it as often as you like.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use vecstore::{OnDuplicate, Reader, Store, StoreConfig};

const DIM: usize = 64;
const WORDS: usize = 1000;
const BATCH: usize = 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["work", dir] => work(dir),
        [dir] => interrupt(dir),
        [] => interrupt("resume.vecs"),
        _ => Err("usage: resume [DIR]  or  resume work DIR".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("resume: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The job. It keeps no state of its own: its work is the words that the store lacks.
fn work(dir: &str) -> Result<(), Box<dyn Error>> {
    let store = Store::open_or_create(dir, StoreConfig::new(DIM))?;
    let words: Vec<String> = (0..WORDS).map(|number| format!("word {number}")).collect();
    let missing = store.snapshot().missing(&words)?;
    println!("{} of {WORDS} words are left to do", missing.len());
    for chunk in missing.chunks(BATCH) {
        let mut batch = store.batch();
        for &position in chunk {
            batch.push(&words[position], &embed(&words[position]))?;
        }
        // Once `append` has returned, the whole batch is on the disk. A kill one moment earlier leaves the
        // whole batch or nothing of it.
        store.append(&mut batch, OnDuplicate::Skip)?;
        println!("{} more are stored", chunk.len());
    }
    Ok(store.close()?)
}

/// Stands in for a model: it is slow, and gives the same vector for the same word.
fn embed(word: &str) -> [f32; DIM] {
    std::thread::sleep(Duration::from_millis(1));
    let mut vector = [0.0; DIM];
    for (at, pair) in word.as_bytes().windows(2).enumerate() {
        vector[(usize::from(pair[0]) * 31 + usize::from(pair[1]) + at) % DIM] += 1.0;
    }
    vector
}

fn interrupt(dir: &str) -> Result<(), Box<dyn Error>> {
    let job = || Command::new(std::env::current_exe()?).args(["work", dir]).stdout(Stdio::piped()).spawn();
    let mut first = job()?;
    let mut lines = BufReader::new(first.stdout.take().ok_or("no pipe")?).lines();
    println!("first run:  {}", lines.next().ok_or("it says nothing")??);
    // The kill comes after a third of the batches.
    for _ in 0..WORDS / BATCH / 3 {
        lines.next().ok_or("it ended early")??;
    }
    first.kill()?;
    first.wait()?;
    println!("killed; the store holds {} words", Reader::open(dir)?.snapshot().len());

    let second = job()?.wait_with_output()?;
    let said = String::from_utf8_lossy(&second.stdout);
    println!("second run: {}", said.lines().next().unwrap_or_default());
    let totals = Reader::open(dir)?.snapshot().totals();
    println!("now the store holds {} words in {} rows, none of them twice", totals.entries, totals.rows);
    if second.status.success() && totals.entries == WORDS as u64 && totals.rows == WORDS as u64 {
        Ok(())
    } else {
        Err(format!("the second run ended with {}, and {totals:?}", second.status).into())
    }
}

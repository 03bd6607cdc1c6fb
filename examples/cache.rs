//! `cache [DIR]`: a cache of embeddings. Several threads fill it, and another process reads it at the same
//! time.
//!
//! The program starts itself as a reader (`cache read DIR`), which prints the new pages of each commit, and
//! fills the cache from four threads. Run the program twice: pages in the cache are not embedded again.

use std::error::Error;
use std::process::{Command, ExitCode};
use std::time::Duration;

use vecstore::{OnDuplicate, Reader, SearchOptions, Store, StoreConfig};

const DIM: usize = 32;
const PAGES: usize = 400;
const THREADS: usize = 4;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", dir] => read(dir),
        [dir] => fill(dir),
        [] => fill("cache.vecs"),
        _ => Err("usage: cache [DIR]  or  cache read DIR".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("cache: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Fills the cache from several threads, which share one handle. Batches that threads append at the same time
/// share one file and its flushes.
fn fill(dir: &str) -> Result<(), Box<dyn Error>> {
    let store = Store::open_or_create(dir, StoreConfig::new(DIM))?;
    let mut reader = Command::new(std::env::current_exe()?).args(["read", dir]).spawn()?;
    let pages: Vec<String> = (0..PAGES).map(|number| format!("https://example.org/{number}")).collect();
    let missing = store.snapshot().missing(&pages)?;
    println!("{} of {PAGES} pages are in the cache", PAGES - missing.len());
    std::thread::scope(|scope| {
        let each = missing.len().div_ceil(THREADS).max(1);
        let threads: Vec<_> = missing
            .chunks(each)
            .map(|part| {
                let (store, pages) = (&store, &pages);
                scope.spawn(move || -> vecstore::Result<()> {
                    for some in part.chunks(20) {
                        let mut batch = store.batch();
                        for &position in some {
                            let text = format!("the text of {}", pages[position]);
                            let entry = batch.entry(&pages[position]).row(&embed(&text));
                            entry.attribute("bytes", text.len() as i64).payload(&text).push()?;
                        }
                        store.append(&mut batch, OnDuplicate::Skip)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    // An empty entry tells the reader that no more pages come.
    let mut batch = store.batch();
    batch.entry("done").on_duplicate(OnDuplicate::Replace).push_empty()?;
    store.append(&mut batch, OnDuplicate::Skip)?;
    store.close()?;
    let status = reader.wait()?;
    if status.success() { Ok(()) } else { Err(format!("the reader ended with {status}").into()) }
}

/// Follows the cache. A reader takes no lock, and no writer waits for it.
fn read(dir: &str) -> Result<(), Box<dyn Error>> {
    let reader = Reader::open(dir)?;
    let (mut seen, mut pages) = (0, 0);
    loop {
        let snapshot = reader.wait_for_commit(seen, Duration::from_secs(600))?;
        let (mut new, mut done) = (0, false);
        for entry in snapshot.iter_since(seen) {
            let entry = entry?;
            done |= entry.key() == b"done";
            new += usize::from(entry.row_count() > 0);
        }
        (seen, pages) = (snapshot.last_commit(), pages + new);
        println!("reader: {new} new pages up to commit {seen}");
        if !done {
            continue;
        }
        let options = SearchOptions::new(3).threads(1);
        for hit in snapshot.search_with(&embed("the text of https://example.org/7"), &options)? {
            let entry = snapshot.entry(&hit)?.ok_or("a hit of this snapshot is in it")?;
            println!("reader: {:.3}  {}", hit.score, String::from_utf8_lossy(entry.payload()));
        }
        println!("reader: {pages} pages in all");
        return Ok(());
    }
}

/// Stands in for a model: the same text gives the same vector.
fn embed(text: &str) -> [f32; DIM] {
    let mut vector = [0.0; DIM];
    for (at, pair) in text.as_bytes().windows(2).enumerate() {
        vector[(usize::from(pair[0]) * 31 + usize::from(pair[1]) + at) % DIM] += 1.0;
    }
    vector
}

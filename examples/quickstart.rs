//! `quickstart [DIR]`: a store in one page. Makes one (a new `quickstart.vecs` unless told otherwise), fills it,
//! opens it again and looks things up.

use std::error::Error;
use std::process::ExitCode;

use vecstore::{DType, Metric, OnDuplicate, Store, StoreConfig};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("quickstart: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| String::from("quickstart.vecs"));

    // What a store holds is fixed when it is created: here rows of four f32, compared by cosine.
    let store = Store::create(&dir, StoreConfig::new(4).dtype(DType::F32).metric(Metric::Cosine))?;

    // A batch becomes durable and visible as a whole, or not at all.
    let mut batch = store.batch();
    batch.push("apple", &[0.9_f32, 0.1, 0.0, 0.0])?;
    batch.push("pear", &[0.8_f32, 0.2, 0.1, 0.0])?;
    batch.push("truck", &[0.0_f32, 0.1, 0.9, 0.4])?;
    // Two faces in one picture: one key, two rows, and a note of yours beside them.
    batch.push_with("group photo", &[0.1_f32, 0.9, 0.0, 0.1, 0.2, 0.7, 0.0, 0.3], b"two faces")?;
    // "Looked, found nothing" and "cannot be read" are facts worth keeping: neither is tried again.
    batch.push_empty("landscape", b"")?;
    batch.push_rejected("half a download.jpg", "the file ends in the middle", b"")?;
    let appended = store.append(&mut batch, OnDuplicate::Error)?;
    println!(
        "appended {} entries with {} rows; they survive a power cut now",
        appended.entries, appended.rows
    );
    store.close()?;

    // Any number of programs may read while one writes. A snapshot does not change under your hands.
    let snapshot = Store::open_read_only(&dir)?.snapshot();
    if let Some(entry) = snapshot.get("group photo")? {
        let rows: &[f32] = entry.rows()?; // straight from the mapped file, nothing is copied
        println!("group photo: {} rows, first {:?}", entry.row_count(), &rows[..4]);
    }
    println!("still missing: {:?}", snapshot.missing(&["apple", "landscape", "plum"])?);

    println!("nearest to an apple:");
    for hit in snapshot.search(&[0.9, 0.1, 0.0, 0.0], 3)? {
        println!("  {:.3}  {}", hit.score, String::from_utf8_lossy(&hit.key));
    }
    Ok(())
}

//! `quickstart [DIR]`: a store on one page. Creates a store (`quickstart.vecs` unless DIR is given), fills
//! it, opens it again and looks entries up.

use std::error::Error;
use std::process::ExitCode;

use vecstore::{DType, Metric, OnDuplicate, Reader, Store, StoreConfig};

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

    // Dimension, element type and metric are fixed at creation: here rows of four `f32`, compared by cosine.
    let store = Store::create(&dir, StoreConfig::new(4).dtype(DType::F32).metric(Metric::Cosine))?;

    // A batch becomes durable and visible as a whole, or not at all.
    let mut batch = store.batch();
    batch.push("apple", &[0.9_f32, 0.1, 0.0, 0.0])?;
    batch.push("pear", &[0.8_f32, 0.2, 0.1, 0.0])?;
    batch.push("truck", &[0.0_f32, 0.1, 0.9, 0.4])?;
    // Two faces in one picture: one key with two rows, and a note as the payload.
    let faces = [[0.1_f32, 0.9, 0.0, 0.1], [0.2, 0.7, 0.0, 0.3]];
    batch.entry("group photo").rows(faces).payload(b"two faces").push()?;
    // "Nothing was found" and "cannot be read" are stored, too: neither input is tried again.
    batch.push_empty("landscape")?;
    batch.push_rejected("half a download.jpg", "the file ends in the middle")?;
    let appended = store.append(&mut batch, OnDuplicate::Error)?;
    println!(
        "appended {} entries with {} rows; they survive a power cut now",
        appended.entries, appended.rows
    );
    store.close()?;

    // Any number of programs may read while one writes. A snapshot never changes.
    let snapshot = Reader::open(&dir)?.snapshot();
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

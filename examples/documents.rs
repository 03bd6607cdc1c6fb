//! `documents [DIR]`: documents as entries, with a row for each chunk; filters on attributes; versions and a
//! backup.

use std::error::Error;
use std::process::ExitCode;

use vecstore::{
    BackupOptions, Entry, OnDuplicate, ReadOptions, Reader, SearchOptions, Snapshot, Store, StoreConfig,
    Value,
};

const DIM: usize = 64;

/// Name, language, year, text.
const DOCUMENTS: [(&str, &str, i64, &str); 4] = [
    ("ducks.txt", "en", 2019, "Ducks swim on ponds. Ducks eat bread, though they should not. Ponds freeze."),
    ("trains.txt", "en", 2023, "Trains run on rails. Rails are made of steel. Steel rusts in rain."),
    ("enten.txt", "de", 2023, "Enten schwimmen auf Teichen. Teiche frieren zu."),
    ("empty.txt", "en", 2024, ""),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("documents: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| String::from("documents.vecs"));
    let store = Store::open_or_create(&dir, StoreConfig::new(DIM))?;
    let mut batch = store.batch();
    for (name, language, year, text) in DOCUMENTS {
        add(&mut batch, name, language, year, text)?;
    }
    // A changed document replaces the former one, with all its chunks.
    let appended = store.append(&mut batch, OnDuplicate::Replace)?;
    println!("{} documents with {} chunks", appended.entries, appended.rows);

    let query = embed("where do ducks swim");
    println!("anything about swimming ducks:");
    show(&store.snapshot(), &SearchOptions::new(3), &query)?;
    println!("in English, since 2020:");
    let admits = |entry: &Entry<'_>| {
        let is_english = matches!(entry.attribute("language"), Ok(Some(Value::Text("en"))));
        is_english && matches!(entry.attribute("year"), Ok(Some(Value::I64(2020..))))
    };
    show(&store.snapshot(), &SearchOptions::new(3).filter(admits), &query)?;

    // A version keeps the state; restoring it takes one commit.
    if store.versions()?.iter().all(|version| version.name != "first") {
        store.create_version("first")?;
    }
    let ducks = store.snapshot().get_owned("ducks.txt")?.ok_or("it was stored")?;
    let mut batch = store.batch();
    // Fails if another writer has replaced the document meanwhile.
    batch.set_payload(&ducks.entry(), b"a note instead of the text")?;
    batch.push_entry_as("old/trains.txt", &store.snapshot().get("trains.txt")?.ok_or("it was stored")?)?;
    batch.delete("trains.txt")?;
    store.append(&mut batch, OnDuplicate::Replace)?;
    println!("after a change: {:?}", names(&store.snapshot())?);
    let then = ReadOptions::new().at_version("first").open(&dir)?;
    println!("at the version: {:?}", names(&then.snapshot())?);
    store.restore_version("first")?;
    println!("gone back:      {:?}", names(&store.snapshot())?);

    let backup = format!("{dir}.backup");
    let report = store.backup_with(&backup, BackupOptions::new().at_version("first"))?;
    let files = report.copied + report.kept;
    println!("backup of commit {}: {files} segment(s) copied or there", report.last_commit);
    println!("it holds {} documents", Reader::open(&backup)?.snapshot().len());
    Ok(store.close()?)
}

/// Adds a document as one entry: a row for each sentence, and the sentences in the payload, one per line.
fn add(
    batch: &mut vecstore::Batch,
    name: &str,
    language: &str,
    year: i64,
    text: &str,
) -> vecstore::Result<()> {
    let chunks: Vec<&str> =
        text.split_inclusive('.').map(str::trim).filter(|chunk| !chunk.is_empty()).collect();
    let payload = chunks.join("\n");
    let entry = batch.entry(name).attribute("language", language).attribute("year", year).payload(&payload);
    match chunks.is_empty() {
        // An empty entry: the document was processed, and has no chunks.
        true => entry.push_empty(),
        false => entry.rows(chunks.iter().map(|chunk| embed(chunk))).push(),
    }
}

fn show(snapshot: &Snapshot, options: &SearchOptions<'_>, query: &[f32]) -> Result<(), Box<dyn Error>> {
    for hit in snapshot.search_with(query, options)? {
        let entry = snapshot.entry(&hit)?.ok_or("a hit of this snapshot is in it")?;
        let text = String::from_utf8_lossy(entry.payload());
        let chunk = text.lines().nth(hit.row as usize).unwrap_or_default();
        println!("  {:.3}  {}: {chunk}", hit.score, String::from_utf8_lossy(&hit.key));
    }
    Ok(())
}

fn names(snapshot: &Snapshot) -> vecstore::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in snapshot {
        names.push(String::from_utf8_lossy(entry?.key()).into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Stands in for a model: texts with common words get vectors that are near each other.
fn embed(text: &str) -> Vec<f32> {
    let mut vector = vec![0.1; DIM];
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2) {
        let hash = word.bytes().fold(7usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
        vector[hash % DIM] += 1.0;
    }
    vector
}

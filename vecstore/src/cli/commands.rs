//! What each command does.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use vecstore::{Address, DType, Entry, Metric, Snapshot, Store, StoreConfig, VerifyProgress, escaped};

use super::output::{Failure, bytes, json_line, keyed, line};
use super::{CheckpointAction, Command, Source, Target, manage, repair};

pub type Answer = Result<ExitCode, Failure>;

/// Runs one command, with stdout buffered.
pub fn run(command: Command) -> Answer {
    let mut out = BufWriter::new(io::stdout().lock());
    let code = match command {
        Command::Create { target, dim, dtype, metric } => create(&mut out, &target, dim, dtype, metric),
        Command::Info(target) => info(&mut out, &target),
        Command::Verify(target) => verify(&mut out, &target),
        Command::Repair { target, dry_run } => repair::repair(&mut out, &target, dry_run),
        Command::Get { source, key, address } => match address {
            Some(address) => row_at(&mut out, &source, address),
            None => get(&mut out, &source, key.unwrap_or_default().as_bytes()),
        },
        Command::Keys { source, kind } => keys(&mut out, &source, kind.as_deref()),
        Command::Files(source) => files(&mut out, &source),
        Command::Search { source, like, row, k } => search(&mut out, &source, like.as_bytes(), row, k),
        Command::Delete { target, keys } => manage::delete(&mut out, &target, &keys),
        Command::Compact { target, full } => manage::compact(&mut out, &target, full),
        Command::Checkpoint { action, dir, name, json } => match action {
            Some(CheckpointAction::List(target)) => manage::list_checkpoints(&mut out, &target),
            Some(CheckpointAction::Drop { target, name }) => {
                manage::drop_checkpoint(&mut out, &target, &name)
            }
            None => {
                let target = Target { dir: dir.unwrap_or_default(), json };
                manage::checkpoint(&mut out, &target, &name.unwrap_or_default())
            }
        },
        Command::Backup { target, dest, keep } => manage::backup(&mut out, &target, &dest, keep),
        Command::Restore { backup, target } => manage::restore(&mut out, &backup, &target),
    }?;
    out.flush()?;
    Ok(code)
}

fn create(out: &mut impl Write, target: &Target, dim: usize, dtype: DType, metric: Metric) -> Answer {
    let store = Store::create(&target.dir, StoreConfig::new(dim).dtype(dtype).metric(metric))?;
    store.close()?;
    if target.json {
        let answer = json!({"store": target.dir.to_string_lossy(), "dim": dim, "dtype": dtype.to_string(),
            "metric": metric.to_string()});
        json_line(out, &answer)?;
    } else {
        line(out, format_args!("created {} ({dim} x {dtype}, {metric})", target.dir.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn info(out: &mut impl Write, source: &Source) -> Answer {
    let store = source.open()?;
    let snapshot = store.snapshot();
    let totals = snapshot.totals();
    let fingerprint = store.fingerprint();
    let segments = snapshot.segments().count();
    let damaged = snapshot.segments().filter(|segment| segment.is_damaged).count();
    if source.target.json {
        let answer = json!({
            "store": source.target.dir.to_string_lossy(),
            "dim": store.dim(),
            "dtype": store.dtype().to_string(),
            "metric": store.metric().to_string(),
            "model": fingerprint.as_ref().map(|f| f.description()),
            "fingerprint": fingerprint.as_ref().map(|f| f.id().iter().map(|b| format!("{b:02x}")).collect::<String>()),
            "entries": totals.entries,
            "empty": totals.empty,
            "rejected": totals.rejected,
            "tombstones": totals.tombstones,
            "rows": totals.rows,
            "commits": snapshot.last_commit(),
            "segments": segments,
            "damaged_segments": damaged,
            "bytes": totals.bytes,
            "settings": store.settings(),
        });
        json_line(out, &answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    line(out, format_args!("{}", source.target.dir.display()))?;
    line(out, format_args!("  vectors   {} x {}, {}", store.dim(), store.dtype(), store.metric()))?;
    if let Some(fingerprint) = &fingerprint {
        let id = fingerprint.short_id();
        line(out, format_args!("  model     {} (fingerprint {id})", fingerprint.description()))?;
    }
    line(
        out,
        format_args!(
            "  entries   {} with rows, {} empty, {} rejected, {} deleted",
            totals.entries, totals.empty, totals.rejected, totals.tombstones
        ),
    )?;
    line(out, format_args!("  rows      {}", totals.rows))?;
    line(
        out,
        format_args!(
            "  commits   {} in {segments} segment(s), {}",
            snapshot.last_commit(),
            bytes(totals.bytes)
        ),
    )?;
    if damaged > 0 {
        let dir = source.target.dir.display();
        line(
            out,
            format_args!(
                "  damaged   {damaged} segment(s), which merges leave as they are; mend them with `vecstore repair {dir}`"
            ),
        )?;
    }
    for (name, value) in store.settings() {
        line(out, format_args!("  {name:<9} {value}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(out: &mut impl Write, target: &Target) -> Answer {
    let show = io::stderr().is_terminal() && !target.json;
    let report = vecstore::verify(&target.dir, |progress| {
        if show {
            show_progress(progress);
        }
    })?;
    if show {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    let code = if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if target.json {
        let faults: Vec<Value> = report
            .faults
            .iter()
            .map(|fault| {
                let keys: Vec<Value> = fault.keys.iter().map(|key| Value::Object(keyed(key))).collect();
                json!({"file": fault.path.to_string_lossy(), "section": fault.section, "block": fault.block,
                    "detail": fault.detail, "keys": keys})
            })
            .collect();
        let answer = json!({"whole": report.is_whole(), "files": report.files, "bytes": report.bytes,
            "commits": report.last_commit, "rows": report.totals.rows, "faults": faults, "notes": report.notes});
        json_line(out, &answer)?;
        return Ok(code);
    }
    for note in &report.notes {
        line(out, format_args!("note: {note}"))?;
    }
    for fault in &report.faults {
        line(out, format_args!("fault: {fault}"))?;
        for key in &fault.keys {
            line(out, format_args!("  key: {}", escaped(key)))?;
        }
    }
    let read = format!("{} file(s), {} read", report.files, bytes(report.bytes));
    if report.is_whole() {
        let totals = report.totals;
        line(out, format_args!("whole: {} commit(s), {} row(s); {read}", report.last_commit, totals.rows))?;
    } else {
        line(out, format_args!("NOT WHOLE: {} fault(s); {read}", report.faults.len()))?;
    }
    Ok(code)
}

fn show_progress(progress: VerifyProgress) {
    let read = bytes(progress.bytes);
    let _ =
        write!(io::stderr(), "\rverifying {}/{} files, {read}\x1b[K", progress.files, progress.total_files);
}

fn get(out: &mut impl Write, source: &Source, key: &[u8]) -> Answer {
    let store = source.open()?;
    let snapshot = store.snapshot();
    let Some(entry) = snapshot.get(key)? else { return Err(no_such_key(&source.target.dir, key)) };
    if source.target.json {
        let rows = entry.to_f32()?;
        let rows: Vec<&[f32]> = rows.chunks(store.dim()).collect();
        let mut answer = described(&entry);
        answer.insert("rows".to_owned(), json!(rows));
        json_line(out, &Value::Object(answer))?;
        return Ok(ExitCode::SUCCESS);
    }
    line(out, format_args!("key      {}", escaped(entry.key())))?;
    line(out, format_args!("kind     {}", entry.kind()))?;
    line(out, format_args!("address  {}", entry.address()))?;
    match entry.reason() {
        Some(reason) => line(out, format_args!("reason   {reason}"))?,
        None if !entry.payload().is_empty() => {
            line(out, format_args!("payload  {} bytes", entry.payload().len()))?
        }
        None => {}
    }
    for (number, row) in entry.to_f32()?.chunks(store.dim()).enumerate() {
        line(out, format_args!("row {number}    {}", elements(row)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row_at(out: &mut impl Write, source: &Source, address: Address) -> Answer {
    let store = source.open()?;
    let Some(row) = store.snapshot().at(address)? else {
        return Err(Failure::Message(format!(
            "{}: there is no row at {address} (never written, superseded or deleted)",
            source.target.dir.display()
        )));
    };
    if source.target.json {
        json_line(out, &json!({"address": address.to_string(), "row": row}))?;
    } else {
        line(out, format_args!("address  {address}"))?;
        line(out, format_args!("row      {}", elements(&row)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The beginning of a row, for people.
fn elements(row: &[f32]) -> String {
    let first: Vec<String> = row.iter().take(8).map(|element| format!("{element:.5}")).collect();
    let rest = match row.len() {
        0..=8 => String::new(),
        len => format!(" … ({len} elements; --json prints all)"),
    };
    format!("{}{rest}", first.join(" "))
}

fn described(entry: &Entry<'_>) -> serde_json::Map<String, Value> {
    let mut object = keyed(entry.key());
    object.insert("kind".to_owned(), json!(entry.kind().to_string()));
    object.insert("address".to_owned(), json!(entry.address().to_string()));
    object.insert("row_count".to_owned(), json!(entry.row_count()));
    if entry.row_count() > 0 {
        let (file, first_row) = entry.location();
        object.insert("file".to_owned(), json!(file.to_string_lossy()));
        object.insert("file_row".to_owned(), json!(first_row));
    }
    if let Some(reason) = entry.reason() {
        object.insert("reason".to_owned(), json!(reason));
    } else if !entry.payload().is_empty() {
        object.insert("payload_bytes".to_owned(), json!(entry.payload().len()));
    }
    object
}

fn no_such_key(dir: &Path, key: &[u8]) -> Failure {
    Failure::Message(format!(
        "{}: no entry has the key \"{}\"; `vecstore keys` lists all keys",
        dir.display(),
        escaped(key)
    ))
}

fn keys(out: &mut impl Write, source: &Source, kind: Option<&str>) -> Answer {
    let store = source.open()?;
    for entry in store.snapshot().iter() {
        let entry = entry?;
        if kind.is_some_and(|kind| entry.kind().to_string() != kind) {
            continue;
        }
        if source.target.json {
            json_line(out, &Value::Object(described(&entry)))?;
        } else {
            line(out, escaped(entry.key()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn files(out: &mut impl Write, source: &Source) -> Answer {
    let store = source.open()?;
    for segment in store.snapshot().segments() {
        if source.target.json {
            let answer = json!({"file": segment.path.to_string_lossy(), "first_commit": segment.first_commit,
                "last_commit": segment.last_commit, "entries": segment.entries, "rows": segment.rows,
                "bytes": segment.bytes});
            json_line(out, &answer)?;
        } else {
            line(out, segment.path.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn search(out: &mut impl Write, source: &Source, like: &[u8], row: usize, k: usize) -> Answer {
    let store = source.open()?;
    let snapshot = store.snapshot();
    let query = query_row(&source.target.dir, &snapshot, like, row)?;
    let own = snapshot.get(like)?.map_or(0, |entry| entry.row_count());
    let hits = snapshot.search(&query, k.saturating_add(own))?;
    for hit in hits.iter().filter(|hit| hit.key != like).take(k) {
        if source.target.json {
            let mut answer = keyed(&hit.key);
            answer.insert("row".to_owned(), json!(hit.row));
            answer.insert("address".to_owned(), json!(hit.address.to_string()));
            answer.insert("score".to_owned(), json!(hit.score));
            json_line(out, &Value::Object(answer))?;
        } else {
            line(out, format_args!("{:.5}  {}", hit.score, escaped(&hit.key)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The row of a stored entry that a search starts from.
fn query_row(dir: &Path, snapshot: &Snapshot, key: &[u8], row: usize) -> Result<Vec<f32>, Failure> {
    let Some(entry) = snapshot.get(key)? else { return Err(no_such_key(dir, key)) };
    let rows = entry.to_f32()?;
    rows.chunks(snapshot.dim()).nth(row).map(<[f32]>::to_vec).ok_or_else(|| {
        Failure::Message(format!(
            "key \"{}\": there is no row {row}; the entry is of kind {} and has {} row(s)",
            escaped(key),
            entry.kind(),
            entry.row_count()
        ))
    })
}

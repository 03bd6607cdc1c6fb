//! Commands that read a store, and `create`.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use vecstore::{Address, BackupOptions, DType, Entry, Metric, Snapshot, Store, StoreConfig, escaped};

use super::output::{Answer, Failure, answer, bytes, hex, keyed};
use super::watched::watched;
use super::{Command, Source, Target, VersionAction, manage, repair};

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
        Command::Keys { source, kind, prefix } => {
            keys(&mut out, &source, kind.as_deref(), prefix.unwrap_or_default().as_bytes())
        }
        Command::Files(source) => files(&mut out, &source),
        Command::Search { source, like, row, k } => search(&mut out, &source, like.as_bytes(), row, k),
        Command::Delete { target, keys, prefix } => {
            manage::delete(&mut out, &target, &keys, prefix.as_deref())
        }
        Command::Compact { target, full } => manage::compact(&mut out, &target, full),
        Command::Version { action, dir, name, json } => match action {
            Some(VersionAction::List(target)) => manage::list_versions(&mut out, &target),
            Some(VersionAction::Restore { target, name }) => {
                manage::restore_version(&mut out, &target, &name)
            }
            Some(VersionAction::Remove { target, name }) => manage::remove_version(&mut out, &target, &name),
            None => {
                let target = Target { dir: dir.unwrap_or_default(), json };
                manage::create_version(&mut out, &target, &name.unwrap_or_default())
            }
        },
        Command::Backup { target, dest, keep, at, link } => {
            let options = BackupOptions::new().link(link);
            let options = at.as_deref().map_or(options, |name| options.at_version(name));
            manage::backup(&mut out, &target, &dest, keep, options)
        }
        Command::Restore { backup, target } => manage::restore(&mut out, &backup, &target),
    }?;
    match out.flush().map_err(Failure::from) {
        Err(Failure::ClosedPipe) => Ok(code),
        flushed => flushed.map(|()| code),
    }
}

fn create(out: &mut impl Write, target: &Target, dim: usize, dtype: DType, metric: Metric) -> Answer {
    Store::create(&target.dir, StoreConfig::new(dim).dtype(dtype).metric(metric))?.close()?;
    let value = json!({"store": target.dir.to_string_lossy(), "dim": dim, "dtype": dtype.to_string(),
        "metric": metric.to_string()});
    let text = format_args!("created {} ({dim} x {dtype}, {metric})", target.dir.display());
    answer(out, target.json, value, [text])
}

fn info(out: &mut impl Write, source: &Source) -> Answer {
    let store = source.open()?;
    let snapshot = store.snapshot();
    let (totals, commits) = (snapshot.totals(), snapshot.last_commit());
    let fingerprint = snapshot.fingerprint();
    let segments = snapshot.segments().count();
    let damaged = snapshot.segments().filter(|segment| segment.info().is_damaged).count();
    let (dim, dtype, metric) = (snapshot.dim(), snapshot.dtype(), snapshot.metric());
    let derived = store.derived_files()?;
    let derived_bytes: u64 = derived.iter().map(|file| file.bytes).sum();
    let of_kind = |kind: &str| derived.iter().filter(|file| file.kind == kind).count();
    let value = json!({
        "store": source.target.dir.to_string_lossy(),
        "dim": dim,
        "dtype": dtype.to_string(),
        "metric": metric.to_string(),
        "model": fingerprint.as_ref().map(|f| f.description()),
        "fingerprint": fingerprint.as_ref().map(|f| hex(f.id())),
        "entries": totals.entries,
        "with_rows": totals.with_rows,
        "empty": totals.empty,
        "rejected": totals.rejected,
        "tombstones": totals.tombstones,
        "rows": totals.rows,
        "dead_rows": totals.dead_rows,
        "commits": commits,
        "segments": segments,
        "damaged_segments": damaged,
        "bytes": totals.bytes,
        "reclaimable_bytes": totals.reclaimable_bytes,
        "liveness_bitmaps": of_kind("LIVE"),
        "key_filters": of_kind("KEYF"),
        "derived_bytes": derived_bytes,
        "settings": snapshot.settings(),
    });
    let dir = source.target.dir.display();
    let mut lines = vec![dir.to_string(), format!("  vectors   {dim} x {dtype}, {metric}")];
    if let Some(f) = fingerprint {
        lines.push(format!("  model     {} (fingerprint {})", f.description(), f.short_id()));
    }
    lines.push(format!(
        "  entries   {}: {} with rows, {} empty, {} rejected; {} deletion(s)",
        totals.entries, totals.with_rows, totals.empty, totals.rejected, totals.tombstones
    ));
    lines.push(format!("  rows      {}", totals.rows));
    if totals.dead_rows > 0 {
        let reclaimable = bytes(totals.reclaimable_bytes);
        lines.push(format!(
            "  dead      {} row(s) replaced or deleted; `vecstore compact {dir} --full` gives back about \
             {reclaimable}",
            totals.dead_rows
        ));
    }
    lines.push(format!("  commits   {commits} in {segments} segment(s), {}", bytes(totals.bytes)));
    if !derived.is_empty() {
        let (bitmaps, filters) = (of_kind("LIVE"), of_kind("KEYF"));
        lines.push(format!(
            "  derived   {bitmaps} liveness bitmap(s), {filters} key filter(s), {}",
            bytes(derived_bytes)
        ));
    }
    if damaged > 0 {
        lines.push(format!(
            "  damaged   {damaged} segment(s), which merges leave as they are; mend them with `vecstore \
             repair {dir}`"
        ));
    }
    lines.extend(snapshot.settings().iter().map(|(name, value)| format!("  {name:<9} {value}")));
    answer(out, source.target.json, value, lines)
}

fn verify(out: &mut impl Write, target: &Target) -> Answer {
    let report = watched("verifying", target.json, |progress| vecstore::verify_with(&target.dir, progress))?;
    let (is_whole, commits, rows) = (report.is_whole(), report.last_commit, report.totals.rows);
    let (mut faults, mut lines) = (Vec::new(), Vec::new());
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    for fault in &report.faults {
        faults.push(
            json!({"file": fault.path.to_string_lossy(), "section": fault.section, "block": fault.block,
            "detail": fault.detail, "keys": fault.keys.iter().map(|key| keyed(key)).collect::<Vec<_>>()}),
        );
        lines.push(format!("fault: {fault}"));
        lines.extend(fault.keys.iter().map(|key| format!("  key: {}", escaped(key))));
    }
    let read = format!("{} file(s), {} read", report.files, bytes(report.bytes));
    lines.push(match is_whole {
        true => format!("whole: {commits} commit(s), {rows} row(s); {read}"),
        false => format!(
            "NOT WHOLE: {} fault(s); {} entries with {} row(s) are in segments without a fault; {read}",
            faults.len(),
            report.intact_entries,
            report.intact_rows
        ),
    });
    let value = json!({"whole": is_whole, "files": report.files, "bytes": report.bytes,
        "commits": commits, "rows": rows, "intact_entries": report.intact_entries,
        "intact_rows": report.intact_rows, "faults": faults, "notes": report.notes});
    match answer(out, target.json, value, lines) {
        // The exit code is the verdict, even if the pipe's reader is gone.
        Ok(_) | Err(Failure::ClosedPipe) if !is_whole => Ok(ExitCode::FAILURE),
        done => done,
    }
}

fn get(out: &mut impl Write, source: &Source, key: &[u8]) -> Answer {
    let store = source.open()?;
    let snapshot = store.snapshot();
    let entry = entry(&source.target.dir, &snapshot, key)?;
    let rows = entry.to_f32()?;
    let rows: Vec<&[f32]> = rows.chunks(snapshot.dim()).collect();
    let mut value = described(&entry)?;
    value["rows"] = json!(rows);
    let mut lines = vec![
        format!("key      {}", escaped(key)),
        format!("kind     {}", entry.kind()),
        format!("address  {}", entry.address()),
    ];
    if let Some(reason) = entry.reason() {
        lines.push(format!("reason   {reason}"));
    }
    if !entry.payload().is_empty() {
        lines.push(format!("payload  {} bytes", entry.payload().len()));
    }
    let attributes = entry.attributes()?.into_iter();
    lines.extend(attributes.map(|(name, value)| format!("{name} = {}", of_attribute(&value))));
    let rows = rows.iter().enumerate();
    lines.extend(rows.map(|(number, row)| format!("row {number}    {}", elements(row))));
    answer(out, source.target.json, value, lines)
}

fn row_at(out: &mut impl Write, source: &Source, address: Address) -> Answer {
    let Some(row) = source.open()?.snapshot().row_at(address)? else {
        return Err(Failure::Message(format!(
            "{}: there is no row at {address} (never written, superseded or deleted)",
            source.target.dir.display()
        )));
    };
    let value = json!({"address": address.to_string(), "row": row});
    let lines = [format!("address  {address}"), format!("row      {}", elements(&row))];
    answer(out, source.target.json, value, lines)
}

/// The first elements of a row, for the text output.
fn elements(row: &[f32]) -> String {
    let first: Vec<String> = row.iter().take(8).map(|element| format!("{element:.5}")).collect();
    let rest = match row.len() {
        0..=8 => String::new(),
        len => format!(" … ({len} elements; --json prints all)"),
    };
    format!("{}{rest}", first.join(" "))
}

/// The value of an attribute in JSON: times in microseconds; NaN and infinity as texts, which JSON lacks.
fn of_attribute(value: &vecstore::Value<'_>) -> Value {
    match value {
        vecstore::Value::Bool(value) => json!(value),
        vecstore::Value::I64(value) | vecstore::Value::Time(value) => json!(value),
        vecstore::Value::F64(value) if !value.is_finite() => json!(value.to_string()),
        vecstore::Value::F64(value) => json!(value),
        vecstore::Value::Text(text) => json!(text),
        vecstore::Value::Texts(texts) => json!(texts),
        _ => Value::Null,
    }
}

fn described(entry: &Entry<'_>) -> Result<Value, Failure> {
    let mut object = keyed(entry.key());
    object["kind"] = json!(entry.kind().to_string());
    object["address"] = json!(entry.address().to_string());
    object["row_count"] = json!(entry.row_count());
    object["payload_bytes"] = json!(entry.payload().len());
    if entry.row_count() > 0 {
        let (file, first_row) = entry.location();
        object["file"] = json!(file.to_string_lossy());
        object["file_row"] = json!(first_row);
    }
    if let Some(reason) = entry.reason() {
        object["reason"] = json!(reason);
    }
    for (name, value) in entry.attributes()? {
        object["attributes"][name] = of_attribute(&value);
    }
    Ok(object)
}

fn entry<'a>(dir: &Path, snapshot: &'a Snapshot, key: &[u8]) -> Result<Entry<'a>, Failure> {
    snapshot.get(key)?.ok_or_else(|| {
        let (dir, key) = (dir.display(), escaped(key));
        Failure::Message(format!("{dir}: no entry has the key \"{key}\"; `vecstore keys` lists all keys"))
    })
}

fn keys(out: &mut impl Write, source: &Source, kind: Option<&str>, prefix: &[u8]) -> Answer {
    for entry in &source.open()?.snapshot() {
        let entry = entry?;
        if !entry.key().starts_with(prefix) || kind.is_some_and(|kind| entry.kind().to_string() != kind) {
            continue;
        }
        if source.target.json {
            writeln!(out, "{}", described(&entry)?)?;
        } else {
            writeln!(out, "{}", escaped(entry.key()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn files(out: &mut impl Write, source: &Source) -> Answer {
    for segment in source.open()?.snapshot().segments() {
        let info = segment.info();
        let value = json!({"file": info.path.to_string_lossy(), "first_commit": info.first_commit,
            "last_commit": info.last_commit, "entries": info.entries, "rows": info.rows,
            "file_rows": info.file_rows, "bytes": info.bytes});
        answer(out, source.target.json, value, [info.path.display()])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn search(out: &mut impl Write, source: &Source, like: &[u8], row: usize, k: usize) -> Answer {
    let store = source.open()?;
    let snapshot = store.snapshot();
    let entry = entry(&source.target.dir, &snapshot, like)?;
    let (kind, own, rows) = (entry.kind(), entry.row_count(), entry.to_f32()?);
    let query = rows.chunks(snapshot.dim()).nth(row).ok_or_else(|| {
        let key = escaped(like);
        let found = format!("the entry is of kind {kind} and has {own} row(s)");
        Failure::Message(format!("key \"{key}\": there is no row {row}; {found}"))
    })?;
    let hits = snapshot.search(query, k.saturating_add(own))?;
    for hit in hits.iter().filter(|hit| hit.key != like).take(k) {
        let mut value = keyed(&hit.key);
        value["row"] = json!(hit.row);
        value["address"] = json!(hit.address.to_string());
        value["score"] = json!(hit.score);
        let text = format_args!("{:.5}  {}", hit.score, escaped(&hit.key));
        answer(out, source.target.json, value, [text])?;
    }
    Ok(ExitCode::SUCCESS)
}

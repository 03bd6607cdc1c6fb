//! `vecstore repair`: runs a repair and prints its report.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use vecstore::{Finding, RepairOptions, RepairReport, escaped, repair_with};

use super::Target;
use super::output::{Answer, answer, keyed};
use super::watched::watched;

/// Repairs a store, or shows what a repair would do.
pub fn repair(out: &mut impl Write, target: &Target, dry_run: bool) -> Answer {
    let what = if dry_run { "looking" } else { "repairing" };
    let report = watched(what, target.json, |progress| {
        repair_with(&target.dir, RepairOptions::new().dry_run(dry_run).progress(progress))
    })?;
    answer(out, target.json, described(&report), told(&report))
}

fn described(report: &RepairReport) -> Value {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let finding = |finding: &Finding| {
        let lost: Vec<Value> = finding.lost_keys.iter().map(|key| keyed(key)).collect();
        json!({"file": finding.path.to_string_lossy(), "problem": finding.problem,
            "moved_to": path(&finding.moved_to), "replaced_by": path(&finding.replaced_by),
            "kept": finding.kept, "readdressed": finding.readdressed, "lost_keys": lost,
            "listed_entries": finding.listed.map(|(entries, _)| entries),
            "listed_rows": finding.listed.map(|(_, rows)| rows),
            "lost_unnamed": finding.lost_unnamed, "lost_unknown": finding.lost_unknown,
            "list": path(&finding.list), "notes": finding.notes})
    };
    let loss = report.loss();
    json!({"dry_run": report.dry_run, "was_whole": report.was_whole(), "rebuilt": report.rebuilt,
        "segments": report.segments, "commits": report.last_commit, "quarantined": path(&report.quarantined),
        "loss": {"keys": loss.keys, "unnamed_entries": loss.unnamed_entries,
            "unknown_files": loss.unknown_files, "unknown_entries": loss.unknown_entries,
            "unlisted_files": loss.unlisted_files, "without_attributes": loss.without_attributes},
        "lost_keys": report.lost_keys().map(keyed).collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>()})
}

fn told(report: &RepairReport) -> Vec<String> {
    if report.was_whole() {
        return vec!["the store is whole: every byte was checked; nothing to do".to_owned()];
    }
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(format!("{}: {}", finding.path.display(), finding.problem));
        let to = finding.moved_to.iter().map(|to| format!("  moved to {}", to.display()));
        let by = finding.replaced_by.iter();
        let by = by.map(|by| format!("  replaced by {} ({} entries kept)", by.display(), finding.kept));
        let (lost, list) = (finding.lost_keys.len(), finding.list.iter());
        let list = list.map(|list| format!("  {lost} lost key(s) listed in {}", list.display()));
        lines.extend(to.chain(by).chain(list));
        lines.extend(finding.notes.iter().map(|note| format!("  {note}")));
    }
    lines.extend(report.lost_keys().map(|key| format!("lost: {}", escaped(key))));
    if report.rebuilt {
        let what = if report.dry_run { "manifest would be rebuilt" } else { "manifest rebuilt" };
        lines.push(format!("{what}: {} segment(s), {} commit(s)", report.segments, report.last_commit));
    }
    let loss = report.loss();
    let mut lost = vec![format!("{} key(s) lost", loss.keys)];
    if loss.unnamed_entries > 0 {
        lost.push(format!("{} entries whose keys cannot be read", loss.unnamed_entries));
    }
    if loss.unknown_files > 0 {
        let most = match loss.unlisted_files {
            0 => format!("at most {} entries", loss.unknown_entries),
            _ => "an unknown number of entries".to_owned(),
        };
        lost.push(format!("the content of {} missing or unreadable file(s): {most}", loss.unknown_files));
    }
    if loss.without_attributes > 0 {
        lost.push(format!("attributes of {} entries", loss.without_attributes));
    }
    let (mood, advice) = match report.dry_run {
        true => ("would be whole", "; nothing was changed: run it without --dry-run"),
        false if loss.keys == 0 => ("is whole", ""),
        false => ("is whole", "; embed lost keys again"),
    };
    lines.push(format!("the store {mood}; {}{advice}", lost.join(", and ")));
    lines
}

//! `vecstore repair`: what was found, where it went, what was kept and what is lost.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use vecstore::{Finding, RepairReport, escaped};

use super::Target;
use super::output::{Answer, answer, keyed};

/// Repairs a store, or says what would be done.
pub fn repair(out: &mut impl Write, target: &Target, dry_run: bool) -> Answer {
    let repair = if dry_run { vecstore::repair_dry_run } else { vecstore::repair };
    let report = repair(&target.dir)?;
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
    json!({"dry_run": report.dry_run, "was_whole": report.was_whole(), "rebuilt": report.rebuilt,
        "segments": report.segments, "commits": report.last_commit, "quarantined": path(&report.quarantined),
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
    let lost = report.lost_keys().count();
    let unnamed = match report.findings.iter().map(|finding| finding.lost_unnamed).sum::<u64>() {
        0 => String::new(),
        count => format!(" and {count} entries whose keys cannot be read"),
    };
    let unknown = match report.findings.iter().any(|finding| finding.lost_unknown) {
        true => "; what else was in files that are missing or unreadable cannot be told",
        false => "",
    };
    let (mood, advice) = match report.dry_run {
        true => ("would be whole", "; nothing was changed: run it without --dry-run"),
        false if lost == 0 => ("is whole", ""),
        false => ("is whole", "; embed lost keys again"),
    };
    lines.push(format!("the store {mood}; {lost} key(s) lost{unnamed}{unknown}{advice}"));
    lines
}

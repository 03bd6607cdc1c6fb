//! `vecstore repair`: what was found, where it went, what was kept and what is lost.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};
use vecstore::{Finding, RepairReport, escaped};

use super::Target;
use super::commands::Answer;
use super::output::{Failure, json_line, keyed, line};

/// Repairs a store, or says what would be done.
pub fn repair(out: &mut impl Write, target: &Target, dry_run: bool) -> Answer {
    let report = match dry_run {
        true => vecstore::repair_dry_run(&target.dir)?,
        false => vecstore::repair(&target.dir)?,
    };
    if target.json {
        json_line(out, &described(&report))?;
    } else {
        tell(out, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn described(report: &RepairReport) -> Value {
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let keys = |keys: &mut dyn Iterator<Item = &[u8]>| -> Vec<Value> {
        keys.map(|key| Value::Object(keyed(key))).collect()
    };
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({"file": finding.path.to_string_lossy(), "problem": finding.problem,
                "moved_to": path(&finding.moved_to), "replaced_by": path(&finding.replaced_by),
                "kept": finding.kept, "readdressed": finding.readdressed,
                "lost_keys": keys(&mut finding.lost_keys.iter().map(Vec::as_slice)),
                "lost_unnamed": finding.lost_unnamed, "lost_unknown": finding.lost_unknown,
                "list": path(&finding.list), "notes": finding.notes})
        })
        .collect();
    json!({"dry_run": report.dry_run, "was_whole": report.was_whole(), "rebuilt": report.rebuilt,
        "segments": report.segments, "commits": report.last_commit, "quarantined": path(&report.quarantined),
        "lost_keys": keys(&mut report.lost_keys()), "findings": findings})
}

fn tell(out: &mut impl Write, report: &RepairReport) -> Result<(), Failure> {
    if report.was_whole() {
        return line(out, "the store is whole: every byte was checked; nothing to do");
    }
    for finding in &report.findings {
        tell_finding(out, finding)?;
    }
    for key in report.lost_keys() {
        line(out, format_args!("lost: {}", escaped(key)))?;
    }
    if report.rebuilt {
        let what = if report.dry_run { "manifest would be rebuilt" } else { "manifest rebuilt" };
        line(out, format_args!("{what}: {} segment(s), {} commit(s)", report.segments, report.last_commit))?;
    }
    let lost = report.lost_keys().count();
    let unnamed: u64 = report.findings.iter().map(|finding| finding.lost_unnamed).sum();
    let unknown = match report.findings.iter().any(|finding| finding.lost_unknown) {
        true => "; what else was in files that are missing or unreadable cannot be told",
        false => "",
    };
    let unnamed = match unnamed {
        0 => String::new(),
        count => format!(" and {count} entries whose keys cannot be read"),
    };
    let (mood, advice) = match report.dry_run {
        true => ("would be whole", "nothing was changed: run it without --dry-run"),
        false => ("is whole", "embed lost keys again"),
    };
    line(out, format_args!("the store {mood}; {lost} key(s) lost{unnamed}{unknown}; {advice}"))
}

fn tell_finding(out: &mut impl Write, finding: &Finding) -> Result<(), Failure> {
    line(out, format_args!("{}: {}", finding.path.display(), finding.problem))?;
    if let Some(to) = &finding.moved_to {
        line(out, format_args!("  moved to {}", to.display()))?;
    }
    if let Some(by) = &finding.replaced_by {
        line(out, format_args!("  replaced by {} ({} entries kept)", by.display(), finding.kept))?;
    }
    if let Some(list) = &finding.list {
        line(out, format_args!("  {} lost key(s) listed in {}", finding.lost_keys.len(), list.display()))?;
    }
    for note in &finding.notes {
        line(out, format_args!("  {note}"))?;
    }
    Ok(())
}

//! What a run has done, in words and as JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Map, Value, json};
use vecstore::{escaped, one_line};
use vecstore_embed::{Ended, FirstFew, Plan, RejectionClass, Stage, Stages, Summary};

use super::hints;
use super::output::{Outcome, listed, print, print_json};
use super::run::RunArgs;

/// What there would be to do.
pub(super) fn dry_run(args: &RunArgs, plan: &Plan) -> Outcome {
    let forecast = &plan.forecast;
    if args.json {
        print_json(&json!({
            "folder": plan.source,
            "found": plan.found,
            "already": plan.already,
            "to_do": plan.to_do,
            "changed": plan.changed,
            "unread": plan.unread.count(),
            "ignored": plan.ignored.count(),
            "ignored_by_extension": plan.ignored.by_extension(),
            "bytes_needed": forecast.needed,
            "bytes_free": forecast.free,
            "model": plan.model,
            "backend": plan.backend,
        }))?;
        return Ok(0);
    }
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    let _ = writeln!(text, "{}", planned(plan, &format!(" ({} of them changed)", HumanCount(plan.changed))));
    let _ = writeln!(text, "model {} on {}; nothing was done", plan.model, plan.backend);
    if plan.found == 0 && !args.recursive && args.list.is_none() && args.tar.is_empty() {
        text.extend(b"folders in it are left out without --recursive\n");
    }
    list(&mut text, "could not be read:", &plan.unread);
    if plan.ignored.count() > 0 {
        let _ = writeln!(text, "not looked at: {}", plan.ignored);
    }
    print(&text)?;
    Ok(0)
}

/// What there is to do, and more about that, and the room it takes.
pub(super) fn planned(plan: &Plan, more: &str) -> String {
    let (folder, needed) = (&plan.source, HumanBytes(plan.forecast.needed));
    let [found, already, to_do] = [plan.found, plan.already, plan.to_do].map(HumanCount);
    let free = plan.forecast.free.map_or_else(String::new, |free| format!(", {} free", HumanBytes(free)));
    let room = format!("about {needed} needed{free}");
    format!("{folder}: {found} pictures, {already} already stored, {to_do} to do{more}; {room}")
}

pub(super) fn text_summary(args: &RunArgs, summary: &Summary) -> Vec<u8> {
    let count = |count: u64| HumanCount(count);
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    if summary.found == 0 && summary.left == 0 {
        let deeper = if args.recursive { "" } else { " (folders in it are left out without --recursive)" };
        let place = match (&args.folder, &args.list) {
            (_, Some(list)) => format!("{}: no pictures in this list", list.display()),
            (Some(folder), None) if args.tar.is_empty() => {
                format!("{}: no pictures in this folder{deeper}", folder.display())
            }
            _ => "no pictures in these tar files".to_owned(),
        };
        let _ = writeln!(text, "{place}: nothing to do");
    } else {
        let _ = write!(
            text,
            "{}: {} embedded, {} rejected, {} already stored",
            args.store.display(),
            count(summary.embedded),
            count(summary.rejected),
            count(summary.already),
        );
        if summary.changed > 0 {
            let _ = write!(text, ", {} of these in place of older entries", count(summary.changed));
        }
        if summary.unread.count() > 0 {
            let _ = write!(text, ", {} could not be read", count(summary.unread.count()));
        }
        let _ = writeln!(text, "; {} found, {:.1} s", count(summary.found), summary.elapsed.as_secs_f64());
    }
    if summary.rejected > 0 {
        let (classes, command) = (by_class(&summary.classes), "vecstore-embed status --rejected --store");
        let _ = write!(text, "rejected: {classes}; which and why: {command} ");
        text.extend(quoted(args.store.as_os_str()).iter());
        text.push(b'\n');
    }
    if let Some(limit) = summary.stages.limit().filter(|_| summary.embedded > 0) {
        let _ = writeln!(text, "{}", limited(limit, summary));
    }
    list(&mut text, "could not be read, and stay missing:", &summary.unread);
    if summary.gone.pruned > 0 {
        let _ = writeln!(text, "{} entries removed, whose files are gone", count(summary.gone.pruned));
    } else if summary.gone.first.count() > 0 {
        list(
            &mut text,
            "stored, but gone from the folder (--prune removes their entries):",
            &summary.gone.first,
        );
    }
    if let Some(refused) = &summary.gone.refused {
        let _ = writeln!(text, "nothing was pruned: {refused}{}", hints::of_words(refused));
    }
    if summary.too_few > 0 || summary.excluded > 0 {
        let (few, excluded) = (count(summary.too_few), count(summary.excluded));
        let _ =
            writeln!(text, "left out: {few} in folders with fewer than --min-images, {excluded} by pattern");
    }
    if summary.ignored.count() > 0 {
        let _ = writeln!(text, "not looked at: {}", summary.ignored);
    }
    if summary.skipped > 0 {
        let _ = writeln!(text, "not followed: {} links and special files", count(summary.skipped));
    }
    let (why, or) = match summary.ended {
        Ended::Stopped => (format!("stopped before the end, {} left", count(summary.left)), ""),
        Ended::ReadFailures => (read_failures(args), ", or with `--max-read-failures 0` to go past them"),
        _ if summary.unread.count() > 0 => ("some files could not be read".to_owned(), ""),
        _ => return text,
    };
    let _ = write!(text, "{why}; to go on, run the same command again{or}:\n  ");
    text.extend(command_line());
    text.push(b'\n');
    text
}

/// `2 decode (no pictures that can be decoded), 1 size (larger than the limits)`.
fn by_class(classes: &BTreeMap<RejectionClass, u64>) -> String {
    let meaning = |class: &RejectionClass| match class {
        RejectionClass::Decode => "no pictures that can be decoded",
        RejectionClass::Size => "larger than the limits",
        _ => "the model gives nothing that can be stored",
    };
    let each = classes.iter().map(|(class, n)| format!("{} {class} ({})", HumanCount(*n), meaning(class)));
    each.collect::<Vec<_>>().join(", ")
}

/// The stage that took longest, and how fast the run was.
fn limited(limit: Stage, summary: &Summary) -> String {
    let busy = 100.0 * summary.stages.of(limit).busy();
    let rate = summary.embedded as f64 / summary.elapsed.as_secs_f64().max(1e-9);
    format!("limit: {limit}, busy {busy:.0} % of the time; {rate:.1} pictures a second")
}

/// Of a summary that is not to be seen, what went wrong: where the exit code is not 0, and was not asked for.
pub(super) fn errors(args: &RunArgs, summary: &Summary) -> String {
    let mut text = String::new();
    let unread = summary.unread.count();
    // Writing to a String cannot fail.
    if summary.ended == Ended::ReadFailures {
        let _ = writeln!(text, "error: {}; run again", read_failures(args));
    } else if let (Some(first), true) = (summary.unread.first().first(), unread > 0) {
        let path = escaped(first.path.as_os_str().as_bytes());
        let _ = writeln!(
            text,
            "error: {} could not be read, and stay missing, the first: {path}: {}; run again",
            HumanCount(unread),
            one_line(&first.reason)
        );
    }
    if let Some(refused) = &summary.gone.refused {
        let _ = writeln!(text, "error: nothing was pruned: {refused}{}", hints::of_words(refused));
    }
    text
}

fn read_failures(args: &RunArgs) -> String {
    format!("stopped: {} in a row could not be read (is the drive still there?)", args.max_read_failures)
}

fn list(text: &mut Vec<u8>, heading: &str, files: &FirstFew) {
    if files.count() == 0 {
        return;
    }
    let _ = writeln!(text, "{heading}");
    for file in files.first() {
        let _ = writeln!(text, "  {}: {}", escaped(file.path.as_os_str().as_bytes()), one_line(&file.reason));
    }
    let more = files.count() - files.first().len() as u64;
    if more > 0 {
        let _ = writeln!(text, "  and {} more", HumanCount(more));
    }
}

/// How much of its time each stage worked, and what it waited for in the rest.
pub(super) fn busy(stages: &Stages) -> String {
    let each = stages.each().map(|(stage, times)| {
        let share = |time: Duration| 100.0 * time.as_secs_f64() / times.total().as_secs_f64().max(1e-9);
        format!(
            "{stage} {:.0} % (waited for input {:.0} %, for output {:.0} %)",
            100.0 * times.busy(),
            share(times.waited_for_input),
            share(times.waited_for_output)
        )
    });
    each.join(", ")
}

pub(super) fn json_summary(summary: &Summary) -> Value {
    let stages: Map<String, Value> = summary
        .stages
        .each()
        .map(|(stage, times)| {
            let times = json!({
                "busy": (times.reading + times.working).as_secs_f64(),
                "waited_for_input": times.waited_for_input.as_secs_f64(),
                "waited_for_output": times.waited_for_output.as_secs_f64(),
            });
            (stage.to_string(), times)
        })
        .into_iter()
        .collect();
    let classes = summary.classes.iter().map(|(class, n)| (class.to_string(), json!(n)));
    let classes: Map<String, Value> = classes.collect();
    let ended = match summary.ended {
        Ended::Stopped => "stopped",
        Ended::ReadFailures => "read failures",
        _ => "finished",
    };
    json!({
        "ended": ended,
        "complete": summary.is_complete(),
        "found": summary.found,
        "already": summary.already,
        "embedded": summary.embedded,
        "stages": stages,
        "changed": summary.changed,
        "gone": summary.gone.first.count(),
        "pruned": summary.gone.pruned,
        "prune_refused": summary.gone.refused,
        "excluded": summary.excluded,
        "too_few": summary.too_few,
        "rejected": summary.rejected,
        "rejected_by_class": classes,
        "unread": summary.unread.count(),
        "left": summary.left,
        "ignored": summary.ignored.count(),
        "ignored_by_extension": summary.ignored.by_extension(),
        "limit": summary.stages.limit().map(|limit| limit.to_string()),
        "skipped": summary.skipped,
        "commits": summary.commits,
        "seconds": summary.elapsed.as_secs_f64(),
        "rejected_first": listed("path", &summary.rejections),
        "unread_first": listed("path", &summary.unread),
    })
}

/// This command, to be pasted into a shell.
fn command_line() -> Vec<u8> {
    let words: Vec<OsString> = env::args_os().collect();
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(&b' ')
}

/// The word for a shell, byte by byte: names need not be text.
fn quoted(word: &OsStr) -> Cow<'_, [u8]> {
    // Only a NUL cannot be quoted, and no argument has one.
    shlex::bytes::try_quote(word.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_stage_is_divided() {
        let mut stages = Stages::default();
        stages.infer.working = Duration::from_secs(5);
        stages.infer.waited_for_input = Duration::from_secs(3);
        stages.infer.waited_for_output = Duration::from_secs(2);
        let told = busy(&stages);
        assert!(told.contains("the model 50 % (waited for input 30 %, for output 20 %)"), "{told}");
    }

    #[test]
    fn words_survive_a_shell() {
        for (word, expected) in [
            (&b"/a/b_1.x"[..], &b"/a/b_1.x"[..]),
            (b"it's here", b"\"it's here\""),
            (b"", b"''"),
            (b"no text: \xff", b"'no text: \xff'"),
        ] {
            assert_eq!(quoted(OsStr::from_bytes(word)), expected);
        }
    }
}

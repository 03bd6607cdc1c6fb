//! What a run has done, in words and as JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Map, Value, json};
use vecstore_embed::{Ended, FirstFew, Kinds, Plan, RejectionClass, Stage, StageTimes, Stages, Summary};

use super::hints;
use super::output::{Outcome, listed, print, print_json, told};
use super::run::RunArgs;

/// What there would be to do.
pub(super) fn dry_run(args: &RunArgs, plan: &Plan) -> Outcome {
    if args.json {
        print_json(&json!({
            "folder": plan.source, "model": plan.model, "backend": plan.backend,
            "found": plan.found, "already": plan.already, "to_do": plan.to_do, "changed": plan.changed,
            "unread": plan.unread.count(),
            "ignored": plan.ignored.count(), "ignored_by_extension": plan.ignored.by_extension(),
            "bytes_needed": plan.forecast.needed, "bytes_free": plan.forecast.free,
        }))?;
        return Ok(0);
    }
    let mut lines = vec![planned(plan, &format!(" ({} of them changed)", HumanCount(plan.changed)))];
    lines.push(format!("model {} on {}; nothing was done", plan.model, plan.backend));
    if plan.found == 0 && !args.recursive && args.list.is_none() && args.tar.is_empty() {
        lines.push("folders in it are left out without --recursive".to_owned());
    }
    lines.extend(list("could not be read:", &plan.unread));
    lines.extend(not_looked_at(&plan.ignored));
    print(lines.join("\n") + "\n")?;
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
    let unread = summary.unread.count();
    let mut lines = vec![done(args, summary)];
    if summary.rejected > 0 {
        let store = String::from_utf8_lossy(&quoted(args.store.as_os_str())).into_owned();
        let which = format!("which and why: vecstore-embed status --rejected --store {store}");
        lines.push(format!("rejected: {}; {which}", by_class(&summary.classes)));
    }
    lines
        .extend(summary.stages.limit().filter(|_| summary.embedded > 0).map(|limit| limited(limit, summary)));
    lines.extend(list("could not be read, and stay missing:", &summary.unread));
    if summary.gone.pruned > 0 {
        lines.push(format!("{} entries removed, whose files are gone", count(summary.gone.pruned)));
    } else {
        let heading = "stored, but gone from the folder (--prune removes their entries):";
        lines.extend(list(heading, &summary.gone.first));
    }
    lines.extend(
        summary
            .gone
            .refused
            .iter()
            .map(|refused| format!("nothing was pruned: {refused}{}", hints::of_words(refused))),
    );
    if summary.too_few > 0 || summary.excluded > 0 {
        let few = format!("{} in folders with fewer than --min-images", count(summary.too_few));
        lines.push(format!("left out: {few}, {} by pattern", count(summary.excluded)));
    }
    lines.extend(not_looked_at(&summary.ignored));
    if summary.skipped > 0 {
        lines.push(format!("not followed: {} links and special files", count(summary.skipped)));
    }
    let (why, or) = match summary.ended {
        Ended::Stopped => ("stopped before the end".to_owned(), ""),
        Ended::ReadFailures => (read_failures(args), ", or with `--max-read-failures 0` to go past them"),
        _ if unread > 0 => ("some files could not be read".to_owned(), ""),
        _ => return (lines.join("\n") + "\n").into_bytes(),
    };
    lines.push(format!("{why}; to go on, run the same command again{or}:\n  "));
    [lines.join("\n").as_bytes(), &command_line(), b"\n"].concat()
}

/// What became of the inputs, or where none were found.
pub(super) fn done(args: &RunArgs, summary: &Summary) -> String {
    let count = |count: u64| HumanCount(count);
    if summary.found == 0 && summary.left == 0 {
        let deeper = if args.recursive { "" } else { " (folders in it are left out without --recursive)" };
        return match (&args.folder, &args.list) {
            (_, Some(list)) => format!("{}: no pictures in this list: nothing to do", list.display()),
            (Some(folder), None) if args.tar.is_empty() => {
                format!("{}: no pictures in this folder{deeper}: nothing to do", folder.display())
            }
            _ => "no pictures in these tar files: nothing to do".to_owned(),
        };
    }
    let [found, embedded, rejected] = [summary.found, summary.embedded, summary.rejected].map(count);
    let mut done = format!("{}: {embedded} embedded, {rejected} rejected", args.store.display());
    done += &format!(", {} already stored", count(summary.already));
    let replaced = (summary.changed, "of these in place of older entries");
    for (number, what) in [replaced, (summary.unread.count(), "could not be read"), (summary.left, "left")] {
        if number > 0 {
            done += &format!(", {} {what}", count(number));
        }
    }
    format!("{done}; {found} found, {:.1} s", summary.elapsed.as_secs_f64())
}

fn not_looked_at(ignored: &Kinds) -> Option<String> {
    (ignored.count() > 0).then(|| format!("not looked at: {ignored}"))
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
    let (unread, mut text) = (HumanCount(summary.unread.count()), String::new());
    if summary.ended == Ended::ReadFailures {
        text += &format!("error: {}; run again\n", read_failures(args));
    } else if let Some(first) = summary.unread.first().first() {
        let first = told(first);
        text +=
            &format!("error: {unread} could not be read, and stay missing, the first: {first}; run again\n");
    }
    if let Some(refused) = &summary.gone.refused {
        text += &format!("error: nothing was pruned: {refused}{}\n", hints::of_words(refused));
    }
    text
}

fn read_failures(args: &RunArgs) -> String {
    format!("stopped: {} in a row could not be read (is the drive still there?)", args.max_read_failures)
}

/// The first of some files under a heading; nothing where there are none.
fn list(heading: &str, files: &FirstFew) -> Vec<String> {
    let mut lines: Vec<String> = files.first().iter().map(|file| format!("  {}", told(file))).collect();
    let more = files.count() - files.first().len() as u64;
    if !lines.is_empty() {
        lines.insert(0, heading.to_owned());
    }
    if more > 0 {
        lines.push(format!("  and {} more", HumanCount(more)));
    }
    lines
}

/// How much of its time each stage worked, and what it waited for in the rest.
pub(super) fn busy(stages: &Stages) -> String {
    let each = stages.each().map(|(stage, times)| {
        let share = |time: Duration| 100.0 * time.as_secs_f64() / times.total().as_secs_f64().max(1e-9);
        let (input, output) = (share(times.waited_for_input), share(times.waited_for_output));
        let busy = 100.0 * times.busy();
        format!("{stage} {busy:.0} % (waited for input {input:.0} %, for output {output:.0} %)")
    });
    each.join(", ")
}

pub(super) fn json_summary(summary: &Summary) -> Value {
    let stage = |(stage, times): (Stage, StageTimes)| {
        let [busy, input, output] =
            [times.working, times.waited_for_input, times.waited_for_output].map(|time| time.as_secs_f64());
        (stage.to_string(), json!({"busy": busy, "waited_for_input": input, "waited_for_output": output}))
    };
    let classes = summary.classes.iter().map(|(class, n)| (class.to_string(), json!(n)));
    json!({
        "ended": summary.ended.to_string(), "complete": summary.is_complete(),
        "found": summary.found, "already": summary.already, "left": summary.left,
        "embedded": summary.embedded, "rows": summary.rows,
        "changed": summary.changed, "commits": summary.commits,
        "rejected": summary.rejected, "rejected_by_class": Map::from_iter(classes),
        "rejected_first": listed("path", &summary.rejections),
        "unread": summary.unread.count(), "unread_first": listed("path", &summary.unread),
        "gone": summary.gone.first.count(), "pruned": summary.gone.pruned,
        "prune_refused": summary.gone.refused,
        "excluded": summary.excluded, "too_few": summary.too_few, "skipped": summary.skipped,
        "ignored": summary.ignored.count(), "ignored_by_extension": summary.ignored.by_extension(),
        "seconds": summary.elapsed.as_secs_f64(), "stages": Map::from_iter(summary.stages.each().map(stage)),
        "limit": summary.stages.limit().map(|limit| limit.to_string()),
    })
}

/// This command, to be pasted into a shell.
fn command_line() -> Vec<u8> {
    env::args_os().map(|word| quoted(&word).into_owned()).collect::<Vec<_>>().join(&b' ')
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

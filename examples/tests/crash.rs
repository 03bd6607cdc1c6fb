//! `crash_writer` and `crash_checker` tested against each other: undisturbed, killed at random moments,
//! several at once, and with a damaged store.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use vecstore_examples::random::SplitMix64;

const WRITER: &str = env!("CARGO_BIN_EXE_crash_writer");
const CHECKER: &str = env!("CARGO_BIN_EXE_crash_checker");

fn writer(dir: &Path, batches: u64, options: &[&str]) -> Command {
    let mut command = Command::new(WRITER);
    command.arg(dir).arg(batches.to_string()).args(["--rows", "8", "--dim", "64"]).args(options);
    command.stdin(Stdio::null());
    command
}

fn check(dir: &Path, min: u64) -> Output {
    Command::new(CHECKER).arg(dir).arg(min.to_string()).output().unwrap()
}

/// Runs the checker, which must find no fault, and returns what it printed: the digest and the number of
/// batches.
fn check_ok(dir: &Path, min: u64) -> (String, u64) {
    let output = check(dir, min);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (digest, batches) = text.trim_end().split_once("\nBATCHES ").unwrap();
    (digest.to_owned(), batches.parse().unwrap())
}

/// Asserts exit code 1 and exactly one line on stderr, and returns it.
fn one_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("crash.vecs");
    (place, dir)
}

/// Number of tries: the first number with `VECSTORE_TESTS=full` or `random`, the second in plain `cargo
/// test`.
fn full_or(full: u32, sample: u32) -> u32 {
    if std::env::var_os("VECSTORE_TESTS").is_some_and(|tier| tier == "full" || tier == "random") {
        full
    } else {
        sample
    }
}

/// When to kill a writer.
enum Moment {
    /// This long after its start.
    Time(Duration),
    /// This long after it acknowledged this many batches.
    Acks(u64, Duration),
}

/// Starts a writer, kills it, and returns the number in the last whole ACK line that came out.
fn write_and_kill(mut command: Command, moment: Moment) -> u64 {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut last = 0;
    let mut read_ack = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        // A line without its end was not acknowledged: the kill came first.
        let number = line.strip_suffix('\n').map(|line| line.strip_prefix("ACK ").unwrap().parse().unwrap());
        last = number.unwrap_or(last);
        number.is_some()
    };
    let pause = match moment {
        Moment::Time(pause) => pause,
        Moment::Acks(count, pause) => {
            (0..count).for_each(|_| assert!(read_ack()));
            pause
        }
    };
    // Moves the kill somewhere into the writer's work; any duration passes: no assertion depends on where.
    thread::sleep(pause);
    child.kill().unwrap();
    while read_ack() {}
    let mut complaints = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert_eq!(complaints, "");
    child.wait().unwrap();
    last
}

#[test]
fn written_batches_are_found_and_writers_continue() {
    let (_place, dir) = dir();
    let output = writer(&dir, 3, &[]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"ACK 1\nACK 2\nACK 3\n");
    let (first, batches) = check_ok(&dir, 3);
    assert_eq!(batches, 3);

    // Another writer with another seed, then the first with another number of rows: each counts its own
    // batches.
    let output = writer(&dir, 2, &["--writer", "V", "--seed", "9"]).output().unwrap();
    assert_eq!(output.stdout, b"ACK 1\nACK 2\n");
    let output = Command::new(WRITER).arg(&dir).args(["1", "--rows", "3", "--dim", "64"]).output().unwrap();
    assert_eq!(output.stdout, b"ACK 4\n");
    let (second, batches) = check_ok(&dir, 6);
    assert_eq!(batches, 6);
    assert_ne!(first, second);
    assert!(one_line(&check(&dir, 7)).contains("holds 6 batches, expected at least 7"));
}

#[test]
fn the_digest_depends_on_content_alone() {
    let (place, dir) = dir();
    let other = place.path().join("other.vecs");
    assert!(writer(&dir, 4, &[]).output().unwrap().status.success());
    assert!(writer(&other, 1, &[]).output().unwrap().status.success());
    assert!(writer(&other, 3, &[]).output().unwrap().status.success());
    assert_eq!(check_ok(&dir, 4), check_ok(&other, 4));
}

#[test]
fn a_missing_store_counts_as_empty() {
    let (place, dir) = dir();
    assert_eq!(check_ok(&dir, 0).1, 0);
    assert!(one_line(&check(&dir, 1)).contains("holds 0 batches"));
    assert_eq!(check_ok(place.path(), 0).1, 0);

    let file = place.path().join("file");
    fs::write(&file, "not a store").unwrap();
    one_line(&check(&file, 0));
    one_line(&writer(&file, 1, &[]).output().unwrap());
    // A folder with another file in it is no store.
    one_line(&check(place.path(), 0));
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    kill_again_and_again(&[], full_or(26, 12));
}

#[test]
fn a_writer_killed_while_it_deletes_and_merges_loses_nothing_either() {
    kill_again_and_again(&["--merge-every", "7", "--delete-every", "3"], full_or(26, 12));
}

#[test]
fn a_writer_killed_while_it_backs_up_loses_nothing_and_the_backup_is_whole() {
    let options =
        ["--merge-every", "9", "--delete-every", "4", "--version-every", "3", "--backup-every", "2"];
    let (_place, dir) = dir();
    let backup = dir.with_file_name("crash.vecs.backup-W");
    let mut random = SplitMix64::new(6);
    let mut acknowledged = 0;
    for _ in 0..full_or(20, 8) {
        let moment = Moment::Acks(1 + random.below(9), Duration::from_micros(random.below(8_000)));
        let last = write_and_kill(writer(&dir, 1_000_000, &options), moment);
        assert!(last > acknowledged, "{last} again, after {acknowledged}");
        // The backup after the last acknowledged batch may be missing; those after earlier batches of this
        // run must exist.
        let backed_up = (last - 1) / 2 * 2;
        check_ok(&backup, if backed_up > acknowledged { backed_up } else { 0 });
        acknowledged = check_ok(&dir, last).1;
    }
}

fn kill_again_and_again(options: &[&str], rounds: u32) {
    let (_place, dir) = dir();
    let mut random = SplitMix64::new(3);
    let mut acknowledged = 0;
    for round in 0..rounds {
        let moment = match round % 2 {
            0 => Moment::Time(Duration::from_micros(random.below(40_000))),
            _ => Moment::Acks(1 + random.below(20), Duration::from_micros(random.below(5_000))),
        };
        let last = write_and_kill(writer(&dir, 1_000_000, options), moment);
        if last > 0 {
            assert!(last > acknowledged, "{last} again, after {acknowledged}");
            acknowledged = last;
        }
        let (_, batches) = check_ok(&dir, acknowledged);
        // At most one batch can be durable without a printed ACK.
        assert!(batches <= acknowledged + 1, "{batches} batches, {acknowledged} acknowledged");
        acknowledged = batches;
    }
}

#[test]
fn several_killed_writers_lose_nothing_they_acknowledged() {
    let (_place, dir) = dir();
    let mut random = SplitMix64::new(4);
    let mut acknowledged = [0; 4];
    for _ in 0..full_or(6, 4) {
        let moments: Vec<(u64, u64)> = (0..4).map(|_| (1 + random.below(8), random.below(5_000))).collect();
        thread::scope(|scope| {
            let handles: Vec<_> = ["A", "B", "C", "D"]
                .into_iter()
                .zip(&moments)
                .map(|(name, (acks, pause))| {
                    let command = writer(&dir, 1_000_000, &["--writer", name]);
                    let moment = Moment::Acks(*acks, Duration::from_micros(*pause));
                    scope.spawn(move || write_and_kill(command, moment))
                })
                .collect();
            for (acknowledged, handle) in acknowledged.iter_mut().zip(handles) {
                let last = handle.join().unwrap();
                assert!(last > *acknowledged, "{last} again, after {acknowledged}");
                *acknowledged = last;
            }
        });
        let (_, batches) = check_ok(&dir, acknowledged.iter().sum());
        // At most one batch of each writer can be durable without a printed ACK.
        assert!(batches <= acknowledged.iter().sum::<u64>() + 4);
    }
    // Each writer continues behind its own last batch.
    let before = check_ok(&dir, acknowledged.iter().sum()).1;
    for (name, acknowledged) in ["A", "B", "C", "D"].into_iter().zip(acknowledged) {
        let output = writer(&dir, 1, &["--writer", name]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let last: u64 = text.strip_prefix("ACK ").unwrap().trim_end().parse().unwrap();
        assert!((acknowledged + 1..=acknowledged + 2).contains(&last), "{text}, {acknowledged} acknowledged");
    }
    assert_eq!(check_ok(&dir, before + 4).1, before + 4);
}

#[test]
fn several_writers_may_create_the_store() {
    for _ in 0..full_or(10, 4) {
        let (_place, dir) = dir();
        let children: Vec<Child> = ["A", "B", "C", "D"]
            .into_iter()
            .map(|name| writer(&dir, 2, &["--writer", name]).stdout(Stdio::piped()).spawn().unwrap())
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            assert_eq!(output.stdout, b"ACK 1\nACK 2\n");
        }
        assert_eq!(check_ok(&dir, 8).1, 8);
    }
}

/// Every segment of the store, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir.join("segments")).unwrap().map(|file| file.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "npy"));
    found.sort();
    found
}

#[test]
fn a_flipped_bit_anywhere_in_a_segment_is_noticed() {
    let (_place, dir) = dir();
    assert!(writer(&dir, 3, &[]).output().unwrap().status.success());
    let segments = segments(&dir);
    assert_eq!(segments.len(), 3);
    let mut random = SplitMix64::new(5);
    for segment in &segments {
        let whole = fs::read(segment).unwrap();
        let mut positions: Vec<u64> =
            (0..full_or(40, 10)).map(|_| random.below(whole.len() as u64)).collect();
        // The first and last bytes, and the padding before the rows.
        positions.extend([0, 4000, 4095, 4096, whole.len() as u64 - 1]);
        for position in positions {
            let mut bytes = whole.clone();
            bytes[position as usize] ^= 1 << random.below(8);
            fs::write(segment, &bytes).unwrap();
            let output = check(&dir, 0);
            assert_eq!(output.status.code(), Some(1), "{}: byte {position}", segment.display());
        }
        fs::write(segment, &whole).unwrap();
    }
    assert_eq!(check_ok(&dir, 3).1, 3);
}

#[test]
fn a_damaged_manifest_is_noticed_and_a_damaged_lock_harmless() {
    let (_place, dir) = dir();
    assert!(writer(&dir, 3, &[]).output().unwrap().status.success());
    let flip = |name: &str, position: usize| {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        bytes[position] ^= 16;
        fs::write(dir.join(name), bytes).unwrap();
    };
    for position in [0, 20, fs::read(dir.join("MANIFEST")).unwrap().len() - 1] {
        flip("MANIFEST", position);
        one_line(&check(&dir, 0));
        flip("MANIFEST", position);
    }
    for position in [0, 20, 100] {
        flip("LOCK", position);
        assert_eq!(writer(&dir, 1, &[]).output().unwrap().status.code(), Some(0));
    }
    fs::remove_file(dir.join("LOCK")).unwrap();
    assert_eq!(writer(&dir, 1, &[]).output().unwrap().stdout, b"ACK 7\n");
    assert_eq!(check_ok(&dir, 7).1, 7);
}

#[test]
fn a_missing_or_shortened_segment_is_noticed() {
    let (_place, dir) = dir();
    assert!(writer(&dir, 3, &[]).output().unwrap().status.success());
    for segment in segments(&dir) {
        let whole = fs::read(&segment).unwrap();
        fs::remove_file(&segment).unwrap();
        one_line(&check(&dir, 0));
        fs::write(&segment, &whole[..whole.len() - 1]).unwrap();
        one_line(&check(&dir, 0));
        fs::write(&segment, &whole).unwrap();
    }
    assert_eq!(check_ok(&dir, 3).1, 3);
}

#[test]
fn closed_output_is_no_panic() {
    let (_place, dir) = dir();
    // stderr closed: the failure (a dimension that does not fit) still ends with exit code 1.
    assert!(writer(&dir, 1, &[]).output().unwrap().status.success());
    let mut child =
        writer(&dir, 1, &["--writer", "V"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(last_line(&mut child), "ACK 1\n");
    assert!(child.wait().unwrap().success());

    let mut child =
        Command::new(WRITER).arg(&dir).args(["1", "--dim", "3"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));

    // stdout closed: an ACK that cannot be written is a failure, reported in one line. The batch stays.
    let mut child =
        writer(&dir, 1000, &["--writer", "U"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    one_line(&output);
    assert_eq!(check_ok(&dir, 3).1, 3);
}

fn last_line(child: &mut Child) -> String {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let (_place, dir) = dir();
    for words in
        [&["1", "2"][..], &[], &["x"], &["1", "--rows", "0"], &["1", "--writer", "a/b"], &["1", "--row", "2"]]
    {
        let output = Command::new(WRITER).arg(&dir).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("usage: crash_writer DIR BATCHES"),
            "{words:?}"
        );
    }
    assert_eq!(Command::new(CHECKER).arg(&dir).output().unwrap().status.code(), Some(2));
    assert!(!dir.exists());
}

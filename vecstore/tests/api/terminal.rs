//! Control characters in keys and file names are escaped: the output neither controls a terminal nor gets
//! additional lines.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use vecstore::{OnDuplicate, Store, StoreConfig};

/// Line feed, escape, tab, DEL, C1, right-to-left override, paragraph separator, and bytes that are not
/// UTF-8.
const KEYS: [&[u8]; 8] = [
    b"a\nb",
    b"\x1b[31mred",
    b"a\tb\\c",
    b"\x7f",
    "\u{9b}2J".as_bytes(),
    "\u{202e}gpj".as_bytes(),
    "\u{2029}".as_bytes(),
    b"\xff\xfe",
];
const LINES: [&str; 8] =
    [r"a\nb", r"\u{1b}[31mred", r"a\tb\\c", r"\u{7f}", r"\u{9b}2J", r"\u{202e}gpj", r"\u{2029}", r"\xff\xfe"];

fn filled(path: &Path) {
    let store = Store::create(path, StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    for key in KEYS {
        batch.push(key, &[1.0f32]).unwrap();
    }
    batch.push_rejected("Gänse.jpg", "no picture:\n\x1b[2J").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
}

fn run(arguments: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vecstore")).args(arguments).output().unwrap()
}

/// Output and errors of a command. Both must be UTF-8 without control characters.
fn said(arguments: &[&OsStr]) -> String {
    let output = run(arguments);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("it is text");
    let is_command = |c: char| c != '\n' && c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
    assert!(!text.contains(is_command), "{text:?}");
    text
}

#[test]
fn a_key_is_one_line_of_text_and_unchanged_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path);
    let (path, json) = (path.as_os_str(), OsStr::new("--json"));
    let keys = said(&[OsStr::new("keys"), path]);
    assert_eq!(keys.lines().collect::<Vec<_>>(), [&LINES[..], &["Gänse.jpg"]].concat());
    let answer = run(&[OsStr::new("keys"), path, json]).stdout;
    let answer = String::from_utf8(answer).unwrap();
    let entries: Vec<serde_json::Value> =
        answer.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), KEYS.len() + 1);
    for (entry, key) in entries.iter().zip(KEYS) {
        match std::str::from_utf8(key) {
            Ok(key) => assert_eq!(entry["key"], key),
            Err(_) => assert_eq!(entry["key_hex"], "fffe"),
        }
    }
}

#[test]
fn no_command_prints_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s\x1b[2J\n");
    filled(&path);
    let segment = path.join("segments/0000000001-0000000001.0.npy");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096] ^= 1;
    let words = |words: &[&str]| -> String {
        let mut arguments: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        arguments.insert(1, path.as_os_str());
        said(&arguments)
    };
    let shown = path.file_name().unwrap().to_string_lossy().replace('\x1b', r"\u{1b}").replace('\n', r"\n");
    assert!(words(&["get", "Gänse.jpg"]).contains(r"no picture:\n\u{1b}[2J"));
    assert!(words(&["get", "a\nb"]).contains(r"key      a\nb"));
    assert!(words(&["search", "--like", "\x7f"]).contains(LINES[1]));
    assert!(words(&["files"]).contains(&shown));
    assert!(words(&["info"]).starts_with(&*dir.path().join(&shown).to_string_lossy()));
    let said_no = words(&["get", "no\nkey"]);
    assert!(said_no.starts_with("error: ") && said_no.contains(r#""no\nkey""#), "{said_no}");
    assert_eq!(said_no.lines().count(), 1);
    std::fs::write(&segment, bytes).unwrap();
    let verified = words(&["verify"]);
    assert!(LINES.iter().all(|line| verified.contains(&format!("  key: {line}\n"))), "{verified}");
    assert!(words(&["repair", "-v"]).contains(&format!("lost: {}\n", LINES[0])));
    let error = run(&[OsStr::new("info"), OsStr::from_bytes(b"/no\xffwhere")]).stderr;
    assert!(std::str::from_utf8(&error).is_ok(), "{error:?}");
}

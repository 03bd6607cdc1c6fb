//! Writing answers: text or JSON, to a stdout that may be a closed pipe.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Map, Value, json};
use vecstore::one_line;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The reader of our output went away (`| head`): no error.
    ClosedPipe,
    /// Anything else.
    Message(String),
}

impl From<vecstore::Error> for Failure {
    fn from(error: vecstore::Error) -> Self {
        Failure::Message(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Message(format!("cannot write the answer: {error}")),
        }
    }
}

/// Writes one line to stdout, whatever is in the text.
pub fn line(out: &mut impl Write, text: impl fmt::Display) -> Result<(), Failure> {
    Ok(writeln!(out, "{}", one_line(&text.to_string()))?)
}

/// Writes a JSON value and a newline.
pub fn json_line(out: &mut impl Write, value: &Value) -> Result<(), Failure> {
    Ok(writeln!(out, "{value}")?)
}

/// A JSON object that begins with a key: `key` as text, and `key_hex` when it is not UTF-8.
pub fn keyed(key: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("key".to_owned(), json!(String::from_utf8_lossy(key)));
    if std::str::from_utf8(key).is_err() {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        object.insert("key_hex".to_owned(), json!(hex));
    }
    object
}

/// Bytes in words: `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{count} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn keys_that_are_no_text_are_also_given_in_hexadecimal() {
        assert_eq!(Value::Object(keyed(b"a")), json!({"key": "a"}));
        assert_eq!(Value::Object(keyed(b"\xFFa")), json!({"key": "\u{FFFD}a", "key_hex": "ff61"}));
    }
}

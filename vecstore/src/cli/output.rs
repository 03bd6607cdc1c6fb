//! Writing answers: text or JSON, to a stdout that may be a closed pipe.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};
use vecstore::one_line;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The process that read the answer went away (`| head`): no error.
    ClosedPipe,
    /// A signal stopped the command.
    Stopped(String),
    /// Any other failure, with its message.
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

/// The exit code of a command, or why it ended early.
pub type Answer = Result<ExitCode, Failure>;

/// Writes one answer to stdout: as one line of JSON, or as lines of text, in which control characters are
/// escaped.
pub fn answer<T: fmt::Display>(
    out: &mut impl Write,
    as_json: bool,
    value: Value,
    lines: impl IntoIterator<Item = T>,
) -> Answer {
    if as_json {
        writeln!(out, "{value}")?;
    } else {
        lines.into_iter().try_for_each(|line| writeln!(out, "{}", one_line(&line.to_string())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A JSON object that begins with a key: `key` as text, and `key_hex` if the key is not UTF-8.
pub fn keyed(key: &[u8]) -> Value {
    let mut object = json!({"key": String::from_utf8_lossy(key)});
    if std::str::from_utf8(key).is_err() {
        object["key_hex"] = json!(hex(key));
    }
    object
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number of bytes with a unit: `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64 / 1024.0, "KiB");
    for larger in ["MiB", "GiB", "TiB"] {
        if value >= 1024.0 {
            (value, unit) = (value / 1024.0, larger);
        }
    }
    if count < 1024 { format!("{count} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn keys_that_are_not_utf_8_are_also_printed_in_hexadecimal() {
        assert_eq!(keyed(b"a"), json!({"key": "a"}));
        assert_eq!(keyed(b"\xFFa"), json!({"key": "\u{FFFD}a", "key_hex": "ff61"}));
    }
}

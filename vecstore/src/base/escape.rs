//! Escaping of keys and messages: one line of text without terminal commands.

/// Escapes a key or path as one line of text that is safe to print.
///
/// Printable characters stay as they are. Control characters, characters that change the direction of
/// writing, line and paragraph separators, bytes that are not UTF-8, and the backslash are written as in Rust
/// (`\n`, `\u{1b}`, `\xff`, `\\`). The text can be decoded, and different keys have different texts.
///
/// ```
/// assert_eq!(vecstore::escaped("Gänse b.jpg".as_bytes()), "Gänse b.jpg");
/// assert_eq!(vecstore::escaped(b"a\n\x1b[31mb\\c\xff"), r"a\n\u{1b}[31mb\\c\xff");
/// ```
pub fn escaped(key: &[u8]) -> String {
    escape(key, true)
}

/// Escapes a message as one line of text that is safe to print, as [`escaped`] does, but leaves backslashes:
/// keys in the message may be escaped already.
pub fn one_line(message: &str) -> String {
    escape(message.as_bytes(), false)
}

fn escape(bytes: &[u8], with_backslash: bool) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' if with_backslash => text.push_str("\\\\"),
                c if c.is_control() || is_command(c) => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// True for characters that change the direction of writing, or end a line or paragraph.
fn is_command(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_key_is_one_safe_line_and_unambiguous() {
        assert_eq!(escaped("ä b.jpg".as_bytes()), "ä b.jpg");
        assert_eq!(escaped(b"a\nb\\c\xFF\x00"), "a\\nb\\\\c\\xff\\u{0}");
        assert_eq!(
            escaped("\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}".as_bytes()),
            "\\u{7f}\\u{9b}\\u{202e}\\u{2066}\\u{2028}"
        );
        let texts = [&b"a\nb"[..], b"a\\nb", b"\xff", b"\\xff", "\u{1b}".as_bytes(), b"\\u{1b}"].map(escaped);
        assert!(texts.iter().enumerate().all(|(at, text)| !texts[..at].contains(text)), "{texts:?}");
    }

    #[test]
    fn one_line_leaves_escaped_keys_as_they_are() {
        let key = escaped(b"a\\\n");
        assert_eq!(one_line(&format!("no \"{key}\" in \u{1b}[2J")), "no \"a\\\\\\n\" in \\u{1b}[2J");
        assert_eq!(one_line(&one_line("\t")), "\\t");
    }
}

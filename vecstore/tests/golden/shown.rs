//! The bytes that `docs/FORMAT.md` shows are those of the golden store of two commits.

use std::fs;
use std::path::Path;

use crate::folder;

/// Offset and bytes of a line of a dump; the rest of the line explains them.
fn bytes_of(line: &str) -> Option<(usize, Vec<u8>)> {
    let (offset, rest) = line.split_once("  ")?;
    let hex = rest.get(..rest.len().min(47))?.trim_end();
    let byte = |pair: &str| u8::from_str_radix(pair, 16).ok();
    if let Some(zeros) = rest.strip_prefix("00 ...") {
        let count = zeros.rsplit_once('(')?.1.strip_suffix(" zeros)")?;
        return Some((usize::from_str_radix(offset, 16).ok()?, vec![0; count.parse().ok()?]));
    }
    let bytes: Option<Vec<u8>> = hex.split(' ').map(byte).collect();
    Some((usize::from_str_radix(offset, 16).ok()?, bytes?))
}

#[test]
fn the_dump_in_the_document_matches_the_store() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FORMAT.md");
    let text = fs::read_to_string(text).unwrap();
    let (_, shown) = text.split_once("\n## 14. ").expect("a section of bytes");
    let store = folder("must-open").join("two-commits/store.vecs");
    let mut files = 0;
    for part in shown.split("\n### `").skip(1) {
        let (name, rest) = part.split_once('`').unwrap();
        let file = fs::read(store.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(rest.starts_with(&format!(", {} bytes", file.len())), "{name}");
        let dump = rest.split("```").nth(1).unwrap();
        let mut lines = 0;
        for line in dump.lines().filter(|line| !line.is_empty()) {
            let (at, bytes) = bytes_of(line).unwrap_or_else(|| panic!("{name}: {line}"));
            assert_eq!(file[at..at + bytes.len()], bytes, "{name}: {line}");
            lines += 1;
        }
        assert!(lines > 10, "{name}");
        files += 1;
    }
    assert_eq!(files, 3, "MANIFEST, a segment, a derived file");
}

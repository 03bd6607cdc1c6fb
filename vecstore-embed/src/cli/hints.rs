//! What the command calls the things that the library's errors speak of.

use vecstore_embed::Error;

/// Words of the library's remedies, and the options that they mean here.
const OPTIONS: [(&str, &str); 31] = [
    ("the size", "--size"),
    ("a larger size", "--size"),
    ("an exact size", "--size"),
    ("the crop", "--crop"),
    ("a smaller crop", "--crop"),
    ("a crop,", "--crop"),
    ("the mean", "--mean"),
    ("the deviation", "--std"),
    ("the filter", "--filter"),
    ("the order of the channels", "--channel-order"),
    ("JPEGs decoded exactly", "--jpeg"),
    ("name an output", "--output-name"),
    ("name another output", "--output-name"),
    ("an ONNX file", "--model"),
    ("the file of the model", "--model"),
    ("name its lib", "--ort-lib"),
    ("the backend tract", "--backend tract"),
    ("the backend onnxruntime", "--backend onnxruntime"),
    ("the device cpu", "--device cpu"),
    ("the device cuda", "--device cuda"),
    ("the device tensorrt", "--device tensorrt"),
    ("smaller batches", "--batch-size"),
    ("fewer lanes", "--lanes"),
    ("engine cache", "--engine-cache"),
    ("examine the model", "vecstore-embed doctor"),
    ("the element type open", "--dtype"),
    ("as a root", "--root NAME=DIR"),
    ("this root away", "--root"),
    ("a list is a file", "--list FILE, or --list - for standard input"),
    ("that is confirmed", "--yes"),
    ("the feature ", "cargo build --features"),
];

/// The options that the remedy of an error means, to be put behind its text: ` (--size, --crop)`.
pub(crate) fn of(error: &Error) -> String {
    match error {
        // The store's own words mean other things.
        Error::Store(_) | Error::SaveFailed { .. } => String::new(),
        error => of_words(&error.to_string()),
    }
}

/// As [`of`], for a text that is no error.
pub(crate) fn of_words(text: &str) -> String {
    let mut meant: Vec<&str> = Vec::new();
    for (words, option) in OPTIONS {
        if text.contains(words) && !meant.contains(&option) {
            meant.push(option);
        }
    }
    if meant.is_empty() { String::new() } else { format!(" ({})", meant.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Gathers the library's code, without its comments.
    fn read(folder: &Path, into: &mut String) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("src/cli") {
                read(&path, into);
            } else if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
                // A text that goes over several lines is one text.
                code.for_each(|line| *into += line.strip_suffix('\\').unwrap_or(line));
            }
        }
    }

    #[test]
    fn the_library_says_these_words_and_no_options() {
        let mut code = String::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
        for (words, option) in OPTIONS {
            assert!(code.contains(words), "{option}: nothing says {words:?}");
        }
        let is_option = |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphabetic());
        let options: Vec<&str> = code.split("--").skip(1).filter(is_option).collect();
        let begin = |text: &&str| text.chars().take(40).collect::<String>();
        assert!(options.is_empty(), "{:?}", options.iter().map(begin).collect::<Vec<_>>());
    }

    #[test]
    fn a_model_without_a_description_asks_for_all_of_it() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/plain.onnx");
        let error = vecstore_embed::Model::from_file(&file, &Default::default(), None).unwrap_err();
        assert_eq!(of(&error), " (--size, --crop, --mean, --std, --filter, --channel-order)");
    }

    #[test]
    fn each_option_is_named_once() {
        let both = "correct the size or the crop, the size above all";
        assert_eq!(of_words(both), " (--size, --crop)");
        assert_eq!(of_words("nothing of this"), "");
    }
}

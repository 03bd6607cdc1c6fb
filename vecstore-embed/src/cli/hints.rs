//! What the command calls the things that the library's errors speak of.

use vecstore_embed::Error;

/// The options, and the words of the library's remedies that mean them.
const OPTIONS: [(&str, &[&str]); 24] = [
    ("--size", &["the size", "a larger size", "an exact size"]),
    ("--crop", &["the crop", "a smaller crop", "a crop,"]),
    ("--mean", &["the mean"]),
    ("--std", &["the deviation"]),
    ("--filter", &["the filter"]),
    ("--channel-order", &["the order of the channels"]),
    ("--jpeg", &["JPEGs decoded exactly"]),
    ("--output-name", &["name an output", "name another output"]),
    ("--model", &["an ONNX file", "the file of the model"]),
    ("--ort-lib", &["name its lib"]),
    ("--backend tract", &["the backend tract"]),
    ("--backend onnxruntime", &["the backend onnxruntime"]),
    ("--device cpu", &["the device cpu"]),
    ("--device cuda", &["the device cuda"]),
    ("--device tensorrt", &["the device tensorrt"]),
    ("--batch-size", &["smaller batches"]),
    ("--lanes", &["fewer lanes"]),
    ("--engine-cache", &["engine cache"]),
    ("vecstore-embed doctor", &["examine the model"]),
    ("--dtype", &["the element type open"]),
    ("--root", &["as a root", "this root away"]),
    ("--list FILE, or --list - for standard input", &["a list is a file"]),
    ("--yes", &["that is confirmed"]),
    ("cargo build --features", &["the feature "]),
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
    let is_meant = |(_, words): &&(_, &[&str])| words.iter().any(|words| text.contains(words));
    let meant: Vec<&str> = OPTIONS.iter().filter(is_meant).map(|(option, _)| *option).collect();
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
        for (option, words) in
            OPTIONS.iter().flat_map(|(option, all)| all.iter().map(move |one| (option, one)))
        {
            assert!(code.contains(*words), "{option}: nothing says {words:?}");
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

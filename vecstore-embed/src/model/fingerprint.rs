//! What makes two vectors comparable, as one number.
//!
//! Everything that a vector depends on beside the picture goes in: the bytes of the model and of the files
//! its weights lie in, the preparation of pictures, which output is taken, whether it is brought to length 1,
//! and whether a model of f32 is computed in less. What only changes the last bits does not: the backend, its
//! version, the machine.

use vecstore::Fingerprint;

use super::{Normalise, Precision};

/// Raise this when vectors change for a reason that none of the other ingredients shows.
const SCHEME: &str = "vecstore-embed 1: vectors of length 1";

/// The same for vectors that are left as the model makes them.
const UNSCALED: &str = "vecstore-embed 1: vectors as the model makes them";

/// The ingredients.
pub(crate) struct Ingredients<'a> {
    /// What the model is called; only the description has it.
    pub(crate) name: &'a str,
    /// Content hash of the graph.
    pub(crate) model: blake3::Hash,
    /// Name and content hash of each file with weights.
    pub(crate) weights: &'a [(String, blake3::Hash)],
    pub(crate) preprocess: &'a str,
    pub(crate) output: &'a str,
    pub(crate) normalise: Normalise,
    pub(crate) precision: Precision,
}

impl Ingredients<'_> {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            // With its length before it no part can run over into the next.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        let (scheme, unscaled) = match self.normalise {
            Normalise::L2 => (SCHEME, ""),
            Normalise::None => (UNSCALED, ", of any length"),
        };
        add(scheme.as_bytes());
        add(self.model.as_bytes());
        add(self.output.as_bytes());
        add(self.preprocess.as_bytes());
        for (name, content) in self.weights {
            add(name.as_bytes());
            add(content.as_bytes());
        }
        // Last and only where it is given, so that stores from before there was a choice keep their
        // fingerprints.
        let lesser = match self.precision {
            Precision::Full => String::new(),
            lesser => {
                add(b"precision");
                add(lesser.to_string().as_bytes());
                format!(", computed in {lesser}")
            }
        };
        let id = *hasher.finalize().as_bytes();
        // Models are often all called model.onnx: a few digits tell them apart in a message.
        let digits: String = self.model.to_hex().chars().take(8).collect();
        let description =
            format!("{} {digits}, output {}{unscaled}{lesser}; {}", self.name, self.output, self.preprocess);
        Fingerprint::new(id, description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ingredient_counts() {
        let weights = [("w.bin".to_owned(), blake3::hash(b"w"))];
        let base = || Ingredients {
            name: "a.onnx",
            model: blake3::hash(b"model"),
            weights: &weights,
            preprocess: "p",
            output: "o",
            normalise: Normalise::L2,
            precision: Precision::Full,
        };
        let id = |ingredients: Ingredients| *ingredients.fingerprint().id();
        assert_eq!(id(base()), id(Ingredients { name: "renamed.onnx", ..base() }));
        let others = [
            Ingredients { model: blake3::hash(b"model2"), ..base() },
            Ingredients { weights: &[("w.bin".to_owned(), blake3::hash(b"v"))], ..base() },
            Ingredients { weights: &[("v.bin".to_owned(), blake3::hash(b"w"))], ..base() },
            Ingredients { weights: &[], ..base() },
            Ingredients { preprocess: "q", ..base() },
            Ingredients { output: "q", ..base() },
            Ingredients { normalise: Normalise::None, ..base() },
            Ingredients { precision: Precision::F16, ..base() },
            Ingredients { precision: Precision::Bf16, ..base() },
            Ingredients { output: "op", preprocess: "", ..base() },
        ];
        for other in others {
            let text = other.fingerprint().description().to_owned();
            assert_ne!(id(other), id(base()), "{text}");
        }
    }

    #[test]
    fn the_description_is_for_people() {
        let ingredients = Ingredients {
            name: "a.onnx",
            model: blake3::hash(b""),
            weights: &[],
            preprocess: "resize 224",
            output: "embeds",
            normalise: Normalise::L2,
            precision: Precision::Full,
        };
        assert_eq!(ingredients.fingerprint().description(), "a.onnx af1349b9, output embeds; resize 224");
        let half = Ingredients { precision: Precision::F16, ..ingredients };
        assert!(half.fingerprint().description().contains("output embeds, computed in fp16; "));
    }
}

//! Which model was asked for, in a form that a store can remember.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Model, Normalise, OutputOptions, Precision};
use crate::base::{Error, Result};
use crate::image::preprocess::{PreprocessOverrides, parse_triple};
use crate::keys::{decode_path, encode_path};

/// The setting that names the space of a store's vectors.
pub(crate) const SPACE: &str = "model.space";

/// What `model` is in the settings of a store whose model is the built-in one.
const BUILTIN: &str = "builtin";

/// A model by its file and options, so that a search finds the model again that a run used.
///
/// Where a model lies is a hint: whether it is the right one is decided by its fingerprint.
///
/// ```
/// use vecstore_embed::{ModelSpec, PreprocessOverrides};
///
/// let overrides = PreprocessOverrides { size: Some("224x224".parse()?), ..Default::default() };
/// let spec = ModelSpec { file: Some("/models/clip.onnx".into()), overrides, ..Default::default() };
/// let settings = spec.to_settings().into_iter().collect();
/// assert_eq!(ModelSpec::from_settings(&settings)?, spec);
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSpec {
    /// The ONNX file; the built-in model without one.
    pub file: Option<PathBuf>,
    /// Preprocessing given by options.
    pub overrides: PreprocessOverrides,
    /// Name of the output that holds the vectors, where the model has several.
    pub output: Option<String>,
    /// What is done to the vectors; they are brought to length 1 where nothing is given.
    pub normalise: Option<Normalise>,
    /// How exactly the model is computed; as it was exported where nothing is given.
    pub precision: Option<Precision>,
    /// The space that its vectors share with those of other towers; see [`Model::with_space`].
    pub space: Option<String>,
}

impl ModelSpec {
    /// Loads the model.
    pub fn load(&self) -> Result<Model> {
        let model = match &self.file {
            Some(file) => {
                let normalise = self.normalise.unwrap_or_default();
                let precision = self.precision.unwrap_or_default();
                let output = OutputOptions { name: self.output.clone(), normalise, precision };
                Model::from_file_with(file, &self.overrides, &output)?
            }
            None => Model::builtin()?,
        };
        Ok(model.with_space(self.space.clone()))
    }

    /// What to record in a store. What is not given is an empty value, so that it replaces an earlier one.
    pub fn to_settings(&self) -> Vec<(String, String)> {
        let PreprocessOverrides { size, crop, mean, std, channel_order, filter, jpeg } = self.overrides;
        let triple = |[a, b, c]: [f32; 3]| format!("{a},{b},{c}");
        let file = self.file.as_ref().map(|file| {
            // A later search may start in another folder.
            encode_path(&file.canonicalize().unwrap_or_else(|_| file.clone()))
        });
        let values = [
            ("model", Some(file.unwrap_or_else(|| BUILTIN.to_owned()))),
            ("model.size", size.map(|size| size.to_string())),
            ("model.crop", crop.map(|crop| crop.to_string())),
            ("model.mean", mean.map(triple)),
            ("model.std", std.map(triple)),
            ("model.channel_order", channel_order.map(|order| order.to_string())),
            ("model.filter", filter.map(|filter| filter.to_string())),
            ("model.jpeg", jpeg.map(|jpeg| jpeg.to_string())),
            ("model.output", self.output.clone()),
            ("model.normalise", self.normalise.map(|normalise| normalise.to_string())),
            ("model.precision", self.precision.map(|precision| precision.to_string())),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value.unwrap_or_default()));
        // A store keeps the space it was given once.
        values.into_iter().chain(self.space.clone().map(|space| (SPACE.to_owned(), space))).collect()
    }

    /// Reads what was recorded; the built-in model where nothing was.
    pub fn from_settings(settings: &BTreeMap<String, String>) -> Result<Self> {
        let recorded = Recorded(settings);
        let file = match recorded.get("model") {
            None => None,
            Some(value) if value == BUILTIN => None,
            Some(value) => {
                Some(decode_path(value).ok_or_else(|| bad("model", "the path of a model", value))?)
            }
        };
        let overrides = PreprocessOverrides {
            size: recorded.parsed("model.size")?,
            crop: recorded.parsed("model.crop")?,
            mean: recorded.with("model.mean", parse_triple)?,
            std: recorded.with("model.std", parse_triple)?,
            channel_order: recorded.parsed("model.channel_order")?,
            filter: recorded.parsed("model.filter")?,
            jpeg: recorded.parsed("model.jpeg")?,
        };
        let normalise = recorded.parsed("model.normalise")?;
        let precision = recorded.parsed("model.precision")?;
        let (output, space) = (recorded.get("model.output").cloned(), recorded.get(SPACE).cloned());
        Ok(ModelSpec { file, overrides, output, normalise, precision, space })
    }
}

/// The settings of a store.
struct Recorded<'a>(&'a BTreeMap<String, String>);

impl Recorded<'_> {
    fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    fn parsed<T: FromStr<Err = Error>>(&self, name: &str) -> Result<Option<T>> {
        self.with(name, str::parse)
    }

    /// The value of a setting, read as that of an option is; what is wrong with it is said of the setting.
    fn with<T>(&self, name: &str, read: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let value = read(value).map_err(|error| match error {
            Error::BadValue { expected, .. } => bad(name, expected, value),
            other => other,
        })?;
        Ok(Some(value))
    }
}

fn bad(name: &str, expected: &'static str, value: &str) -> Error {
    Error::BadSetting { store: None, name: name.to_owned(), expected, value: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_back_and_replaces_what_was() {
        let full = ModelSpec {
            file: Some("/models/ü 100%.onnx".into()),
            overrides: PreprocessOverrides {
                size: Some("256".parse().unwrap()),
                crop: Some("224x200".parse().unwrap()),
                mean: Some([0.481_454_66, 0.1, 0.0]),
                std: Some([1.0, 0.25, 1e-7]),
                channel_order: Some("bgr".parse().unwrap()),
                filter: Some("bilinear".parse().unwrap()),
                jpeg: Some("scaled".parse().unwrap()),
            },
            output: Some("image_embeds".to_owned()),
            normalise: Some(Normalise::None),
            precision: Some(Precision::Bf16),
            space: Some("clip".to_owned()),
        };
        let mut settings = BTreeMap::new();
        for spec in
            [full, ModelSpec::default(), ModelSpec { file: Some("/x.onnx".into()), ..ModelSpec::default() }]
        {
            settings.extend(spec.to_settings());
            // A space stays until another one is given.
            let expected = ModelSpec { space: Some("clip".to_owned()), ..spec };
            assert_eq!(ModelSpec::from_settings(&settings).unwrap(), expected);
        }
        assert_eq!(ModelSpec::from_settings(&BTreeMap::new()).unwrap(), ModelSpec::default());
    }

    #[test]
    fn a_damaged_setting_is_an_error() {
        for (name, value) in [
            ("model", "%Z"),
            ("model.size", "big"),
            ("model.mean", "1,2"),
            ("model.filter", "x"),
            ("model.precision", "f8"),
        ] {
            let settings = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let error = ModelSpec::from_settings(&settings).unwrap_err().of_store("/photos.vecs".as_ref());
            let said = format!("/photos.vecs: the setting {name:?} cannot be used: expected ");
            assert!(error.to_string().starts_with(&said), "{error}");
            assert!(error.to_string().contains(&format!("found {value:?}; another program")), "{error}");
        }
    }
}

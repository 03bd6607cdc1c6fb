//! `preprocessor_config.json`, as it is published beside models.
//!
//! What a file leaves out is a default of the class it names, so unknown classes cannot be guessed.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ChannelOrder, JpegScale, Resample, Resize, Sides, Steps};
use crate::base::{Error, Result};

// As published: 0.48145466, 0.4578275, 0.40821073 and 0.26862954, 0.26130258, 0.27577711, which are these in f32.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A family of processors that share rules and defaults.
struct Family {
    /// Class names without `ImageProcessor`, `ImageProcessorFast` or `FeatureExtractor`.
    names: &'static [&'static str],
    /// What a single number for `size` means, and the size when none is given.
    shortest_edge: bool,
    filter: Resample,
    /// Cut out the centre, 224 x 224, unless the file says otherwise.
    crop: bool,
    mean: [f32; 3],
    std: [f32; 3],
}

const FAMILIES: [Family; 3] = [
    Family {
        names: &["CLIP", "ChineseCLIP", "Bit"],
        shortest_edge: true,
        filter: Resample::Bicubic,
        crop: true,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
    Family {
        names: &["Siglip"],
        shortest_edge: false,
        filter: Resample::Bicubic,
        crop: false,
        mean: [0.5; 3],
        std: [0.5; 3],
    },
    Family {
        names: &["ViT"],
        shortest_edge: false,
        filter: Resample::Bilinear,
        crop: false,
        mean: [0.5; 3],
        std: [0.5; 3],
    },
];

/// Steps that some processors have and that are not done here: refused when switched on.
const OTHER_STEPS: [&str; 4] = ["do_pad", "do_center_pad", "do_thumbnail", "do_splits"];

pub(super) fn read(path: &Path) -> Result<Steps> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        action: "read the model's preprocessing from",
        source,
        remedy: "check its name and its permissions; without the file, --size, --mean and --std say the same",
    })?;
    Config::parse(&path.display().to_string(), &bytes)?.plan()
}

struct Config<'a> {
    origin: &'a str,
    fields: Map<String, Value>,
}

impl<'a> Config<'a> {
    fn parse(origin: &'a str, bytes: &[u8]) -> Result<Self> {
        let fields = match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => fields,
            other => {
                let found = other.map_or_else(|e| e.to_string(), |_| "JSON of another kind".to_owned());
                return Err(Error::Preprocess {
                    origin: origin.to_owned(),
                    expected: "a JSON object".to_owned(),
                    found,
                    remedy: "take the file that was published with the model".to_owned(),
                });
            }
        };
        Ok(Config { origin, fields })
    }

    fn refuse<T>(&self, expected: &str, found: String) -> Result<T> {
        Err(Error::Preprocess {
            origin: self.origin.to_owned(),
            expected: expected.to_owned(),
            found,
            remedy:
                "give --size, --mean and --std (and --crop, --filter, --channel-order) to do without the file"
                    .to_owned(),
        })
    }

    /// The value of a field; `null` is as good as absent.
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.refuse("true or false", format!("{name}: {other}")),
        }
    }

    fn family(&self) -> Result<&'static Family> {
        const EXPECTED: &str = "a processor of the CLIP, Siglip, Bit or ViT family";
        let name = self.get("image_processor_type").or_else(|| self.get("feature_extractor_type"));
        let Some(name) = name.and_then(Value::as_str) else {
            return self
                .refuse(EXPECTED, "neither image_processor_type nor feature_extractor_type".to_owned());
        };
        let stem = name.strip_suffix("Fast").unwrap_or(name);
        let stem = stem.strip_suffix("ImageProcessor").or_else(|| stem.strip_suffix("FeatureExtractor"));
        let family = FAMILIES.iter().find(|family| stem.is_some_and(|stem| family.names.contains(&stem)));
        match family {
            Some(family) => Ok(family),
            None => self.refuse(EXPECTED, format!("{name}, whose rules are not known here")),
        }
    }

    fn plan(&self) -> Result<Steps> {
        let family = self.family()?;
        if let Some(step) = OTHER_STEPS.iter().find(|step| self.flag(step, false).unwrap_or(true)) {
            return self.refuse("resize, crop, rescale and normalise alone", format!("{step} switched on"));
        }
        if self.get("crop_pct").is_some() {
            return self.refuse("a size and a crop in pixels", "crop_pct".to_owned());
        }
        if !self.flag("do_resize", true)? {
            return self.refuse("pictures to be resized", "do_resize: false".to_owned());
        }
        let crop = match self.flag("do_center_crop", family.crop)? {
            true => Some(self.crop()?),
            false => None,
        };
        let (mean, std) = match self.flag("do_normalize", true)? {
            true => (self.triple("image_mean", family.mean)?, self.triple("image_std", family.std)?),
            false => ([0.0; 3], [1.0; 3]),
        };
        let scale = match self.flag("do_rescale", true)? {
            true => self.number("rescale_factor", 1.0 / 255.0)?,
            false => 1.0,
        };
        let order = match self.flag("do_flip_channel_order", false)? {
            true => ChannelOrder::Bgr,
            false => ChannelOrder::Rgb,
        };
        let (resize, filter) = (self.size(family)?, self.filter(family)?);
        Ok(Steps { resize, filter, crop, scale, mean, std, order, jpeg: JpegScale::Exact })
    }

    fn size(&self, family: &Family) -> Result<Resize> {
        const DEFAULT: u32 = 224;
        let one = |edge: u32| match family.shortest_edge {
            true => Resize::ShortestEdge(edge),
            false => Resize::Exact(Sides { height: edge, width: edge }),
        };
        let Some(size) = self.get("size") else { return Ok(one(DEFAULT)) };
        if let Some(edge) = pixels(size) {
            return Ok(one(edge));
        }
        let side = |name| size.get(name).and_then(pixels);
        match (side("shortest_edge"), sides(size)) {
            (Some(edge), None) if size.get("longest_edge").is_none() => Ok(Resize::ShortestEdge(edge)),
            (None, Some(sides)) => Ok(Resize::Exact(sides)),
            _ => self
                .refuse("size: a number, shortest_edge alone, or height and width", format!("size: {size}")),
        }
    }

    fn crop(&self) -> Result<Sides> {
        match self.get("crop_size") {
            None => Ok(Sides { height: 224, width: 224 }),
            Some(crop) => {
                let square = pixels(crop).map(|side| Sides { height: side, width: side });
                match square.or_else(|| sides(crop)) {
                    Some(sides) => Ok(sides),
                    None => {
                        self.refuse("crop_size: a number, or height and width", format!("crop_size: {crop}"))
                    }
                }
            }
        }
    }

    fn filter(&self, family: &Family) -> Result<Resample> {
        let Some(code) = self.get("resample") else { return Ok(family.filter) };
        match code.as_u64().and_then(Resample::from_pillow) {
            Some(filter) => Ok(filter),
            None => self.refuse("resample: one of Pillow's 0 to 5", format!("resample: {code}")),
        }
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(number),
                None => self.refuse("a number", format!("{name}: {value}")),
            },
        }
    }

    fn triple(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let numbers: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(float).collect());
        match numbers.as_deref() {
            Some([a, b, c]) => Ok([*a, *b, *c]),
            _ => self.refuse("a list of three numbers", format!("{name}: {value}")),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "models compute in f32, so that is what the numbers become"
)]
fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32)
}

fn pixels(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|side| u32::try_from(side).ok())
}

fn sides(value: &Value) -> Option<Sides> {
    let height = value.get("height").and_then(pixels)?;
    let width = value.get("width").and_then(pixels)?;
    Some(Sides { height, width })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Steps> {
        Config::parse("preprocessor_config.json", json.as_bytes())?.plan()
    }

    #[test]
    fn clip_old_and_new_say_the_same() {
        let old = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
        let new = r#"{"crop_size": {"height": 224, "width": 224}, "do_convert_rgb": true,
            "image_processor_type": "CLIPImageProcessorFast", "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 224}}"#;
        let old = plan(old).unwrap();
        assert_eq!(old, plan(new).unwrap());
        assert_eq!(old.resize, Resize::ShortestEdge(224));
        assert_eq!(old.crop, Some(Sides { height: 224, width: 224 }));
        assert_eq!((old.filter, old.mean, old.std), (Resample::Bicubic, CLIP_MEAN, CLIP_STD));
    }

    #[test]
    fn siglip_squeezes() {
        let plan = plan(
            r#"{"do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5], "resample": 2,
            "rescale_factor": 0.00392156862745098, "size": {"height": 512, "width": 384}}"#,
        )
        .unwrap();
        assert_eq!(plan.resize, Resize::Exact(Sides { height: 512, width: 384 }));
        assert_eq!((plan.crop, plan.filter), (None, Resample::Bilinear));
    }

    #[test]
    fn dinov2_cuts_224_out_of_256() {
        let plan = plan(
            r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true,
            "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "BitImageProcessor", "image_std": [0.229, 0.224, 0.225], "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256}}"#,
        )
        .unwrap();
        assert_eq!((plan.resize, plan.filter), (Resize::ShortestEdge(256), Resample::Bicubic));
        assert_eq!((plan.mean, plan.std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
    }

    #[test]
    fn what_a_file_leaves_out_is_the_default_of_its_class() {
        let vit = plan(r#"{"feature_extractor_type": "ViTFeatureExtractor", "size": 384}"#).unwrap();
        assert_eq!(vit.resize, Resize::Exact(Sides { height: 384, width: 384 }));
        assert_eq!((vit.filter, vit.crop, vit.mean), (Resample::Bilinear, None, [0.5; 3]));
        let bit = plan(r#"{"image_processor_type": "BitImageProcessor", "do_center_crop": null}"#).unwrap();
        assert_eq!(bit.resize, Resize::ShortestEdge(224));
        assert_eq!(bit.crop, Some(Sides { height: 224, width: 224 }));
        let plain = r#"{"image_processor_type": "ViTImageProcessor", "do_rescale": false, "do_normalize": false,
            "do_flip_channel_order": true}"#;
        let plain = plan(plain).unwrap();
        assert_eq!((plain.scale, plain.mean, plain.std), (1.0, [0.0; 3], [1.0; 3]));
        assert_eq!(plain.order, ChannelOrder::Bgr);
    }

    #[test]
    fn what_is_not_understood_is_never_guessed() {
        let refused = [
            (r#"{"image_processor_type": "ConvNextImageProcessor"}"#, "ConvNextImageProcessor"),
            (r#"{"image_processor_type": "Siglip2ImageProcessor"}"#, "Siglip2ImageProcessor"),
            (r#"{"size": 224}"#, "neither image_processor_type nor feature_extractor_type"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "resample": 9}"#, "resample: 9"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "resample": "bicubic"}"#, "resample"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "do_pad": true}"#, "do_pad"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "crop_pct": 0.9}"#, "crop_pct"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "do_resize": false}"#, "do_resize"),
            (
                r#"{"image_processor_type": "CLIPImageProcessor", "size": {"longest_edge": 9}}"#,
                "longest_edge",
            ),
            (r#"{"image_processor_type": "CLIPImageProcessor", "size": -1}"#, "size: -1"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "crop_size": [1]}"#, "crop_size"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "image_mean": [1, 2]}"#, "image_mean"),
            (r#"{"image_processor_type": "CLIPImageProcessor", "do_normalize": "yes"}"#, "do_normalize"),
            ("[1]", "JSON of another kind"),
            ("{", "EOF"),
        ];
        for (json, named) in refused {
            let text = plan(json).unwrap_err().to_string();
            assert!(text.contains(named) && text.contains("preprocessor_config.json"), "{json}: {text}");
        }
    }
}

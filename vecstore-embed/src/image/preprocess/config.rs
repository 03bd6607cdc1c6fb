//! `preprocessor_config.json`, as it is published beside models.
//!
//! What a file leaves out is a default of the class it names, so unknown classes cannot be guessed.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ChannelOrder, JpegScale, Resample, Resize, Sides, Steps};
use crate::base::{Error, Result};

// As published: 0.48145466, 0.4578275, 0.40821073 and 0.26862954, 0.26130258, 0.27577711, which are these in
// f32.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A family of processors that share rules and defaults.
struct Family {
    /// Class names without `ImageProcessor`, `ImageProcessorFast` or `FeatureExtractor`.
    names: &'static [&'static str],
    /// A single number for `size` means the shortest edge, and the centre is cut out unless the file says
    /// otherwise.
    crops: bool,
    filter: Resample,
    mean: [f32; 3],
    std: [f32; 3],
}

const FAMILIES: [Family; 3] = [
    Family {
        names: &["CLIP", "ChineseCLIP", "Bit"],
        crops: true,
        filter: Resample::Bicubic,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
    Family { names: &["Siglip"], crops: false, filter: Resample::Bicubic, mean: [0.5; 3], std: [0.5; 3] },
    Family { names: &["ViT"], crops: false, filter: Resample::Bilinear, mean: [0.5; 3], std: [0.5; 3] },
];

/// The side of the input where a file does not say it.
const SIDE: u32 = 224;

/// Steps that some processors have and that are not done here: refused when switched on.
const OTHER_STEPS: [&str; 4] = ["do_pad", "do_center_pad", "do_thumbnail", "do_splits"];

pub(super) fn read(path: &Path) -> Result<Steps> {
    const REMEDY: &str = "check its name and its permissions; without the file, give the size, the mean and \
                          the deviation";
    let bytes =
        std::fs::read(path).map_err(Error::io(path, "read the model's preprocessing from", REMEDY))?;
    Config::parse(&path.display().to_string(), &bytes)?.plan()
}

struct Config<'a> {
    origin: &'a str,
    fields: Map<String, Value>,
}

impl<'a> Config<'a> {
    fn parse(origin: &'a str, bytes: &[u8]) -> Result<Self> {
        let found = match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => return Ok(Config { origin, fields }),
            Ok(_) => "JSON of another kind".to_owned(),
            Err(error) => error.to_string(),
        };
        let remedy = "take the file that was published with the model";
        Err(Error::unfit(format!("preprocessing from {origin}"), "a JSON object", found, remedy))
    }

    fn refuse<T>(&self, expected: &str, found: impl Into<String>) -> Result<T> {
        let remedy = "give the size, the mean and the deviation (and the crop, the filter and the order of \
                      the channels) to do without the file";
        Err(Error::unfit(format!("preprocessing from {}", self.origin), expected, found, remedy))
    }

    /// The value of a field; `null` is as good as absent.
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// What `read` makes of a field; refused where that is nothing.
    fn field<T>(
        &self,
        name: &str,
        default: T,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => read(value).map_or_else(|| self.refuse(expected, format!("{name}: {value}")), Ok),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        self.field(name, default, "true or false", Value::as_bool)
    }

    fn family(&self) -> Result<&'static Family> {
        const EXPECTED: &str = "a processor of the CLIP, Siglip, Bit or ViT family";
        let name = self.get("image_processor_type").or_else(|| self.get("feature_extractor_type"));
        let Some(name) = name.and_then(Value::as_str) else {
            return self.refuse(EXPECTED, "neither image_processor_type nor feature_extractor_type");
        };
        let stem = name.strip_suffix("Fast").unwrap_or(name);
        let stem = stem.strip_suffix("ImageProcessor").or_else(|| stem.strip_suffix("FeatureExtractor"));
        let family = FAMILIES.iter().find(|family| stem.is_some_and(|stem| family.names.contains(&stem)));
        family.map_or_else(|| self.refuse(EXPECTED, format!("{name}, whose rules are not known here")), Ok)
    }

    fn plan(&self) -> Result<Steps> {
        let family = self.family()?;
        if let Some(step) = OTHER_STEPS.iter().find(|step| self.flag(step, false).unwrap_or(true)) {
            return self.refuse("resize, crop, rescale and normalise alone", format!("{step} switched on"));
        }
        if self.get("crop_pct").is_some() {
            return self.refuse("a size and a crop in pixels", "crop_pct");
        }
        if !self.flag("do_resize", true)? {
            return self.refuse("pictures to be resized", "do_resize: false");
        }
        let crop = match self.flag("do_center_crop", family.crops)? {
            true => Some(self.crop()?),
            false => None,
        };
        let (mean, std) = match self.flag("do_normalize", true)? {
            true => (self.three("image_mean", family.mean)?, self.three("image_std", family.std)?),
            false => ([0.0; 3], [1.0; 3]),
        };
        let scale = match self.flag("do_rescale", true)? {
            true => self.field("rescale_factor", 1.0 / 255.0, "a number", Value::as_f64)?,
            false => 1.0,
        };
        let order = match self.flag("do_flip_channel_order", false)? {
            true => ChannelOrder::Bgr,
            false => ChannelOrder::Rgb,
        };
        let filter = self.field("resample", family.filter, "resample: one of Pillow's 0 to 5", |code| {
            Resample::from_pillow(code.as_u64()?)
        })?;
        let resize = self.size(family)?;
        Ok(Steps { resize, filter, crop, scale, mean, std, order, jpeg: JpegScale::Exact })
    }

    fn size(&self, family: &Family) -> Result<Resize> {
        let one = |edge: u32| match family.crops {
            true => Resize::ShortestEdge(edge),
            false => Resize::Exact(Sides::square(edge)),
        };
        let expected = "size: a number, shortest_edge alone, or height and width";
        self.field("size", one(SIDE), expected, |size| {
            let edge = size.get("shortest_edge").and_then(pixels);
            match (pixels(size), edge, sides(size)) {
                (Some(number), _, _) => Some(one(number)),
                (_, Some(edge), None) if size.get("longest_edge").is_none() => {
                    Some(Resize::ShortestEdge(edge))
                }
                (_, None, Some(sides)) => Some(Resize::Exact(sides)),
                _ => None,
            }
        })
    }

    fn crop(&self) -> Result<Sides> {
        let expected = "crop_size: a number, or height and width";
        self.field("crop_size", Sides::square(SIDE), expected, |crop| {
            pixels(crop).map(Sides::square).or_else(|| sides(crop))
        })
    }

    fn three(&self, name: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        self.field(name, default, "a list of three numbers", |value| {
            let numbers: Option<Vec<f32>> = value.as_array()?.iter().map(float).collect();
            numbers?.try_into().ok()
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "models compute in f32")]
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
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
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
        let plain = r#"{"image_processor_type": "ViTImageProcessor", "do_rescale": false,
            "do_normalize": false, "do_flip_channel_order": true}"#;
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

//! Models of all shapes through both backends.
//!
//! ONNX Runtime is taken from `ORT_DYLIB_PATH`. Without it those halves say that they were left out; everything else
//! runs.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use vecstore_embed::backend::{
    Backend, BackendChoice, BackendOptions, Device, PixelType, Pixels, Precision, Provider, open_backend,
    open_lanes,
};
use vecstore_embed::doctor::{Options, Pictures, examine};
use vecstore_embed::model::{Model, Normalise, OutputOptions};
use vecstore_embed::preprocess::PreprocessOverrides;
use vecstore_embed::{Error, Run};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

/// 8 x 8, levels from 0 to 1.
fn eight() -> PreprocessOverrides {
    PreprocessOverrides {
        size: Some("8x8".parse().unwrap()),
        mean: Some([0.0; 3]),
        std: Some([1.0; 3]),
        ..PreprocessOverrides::default()
    }
}

fn model(name: &str) -> Result<Model, Error> {
    Model::from_file(&path(name), &eight(), None)
}

fn tract() -> BackendOptions {
    BackendOptions { choice: BackendChoice::Tract, ort_lib: None, threads: 2, ..BackendOptions::default() }
}

/// How to open ONNX Runtime, if a library was given.
fn onnxruntime(test: &str) -> Option<BackendOptions> {
    let library = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    if library.is_none() {
        eprintln!("{test}: ORT_DYLIB_PATH is not set, ONNX Runtime is left out");
    }
    let choice = BackendChoice::OnnxRuntime;
    Some(BackendOptions { choice, ort_lib: Some(library?.into()), threads: 1, ..BackendOptions::default() })
}

fn every_backend(test: &str) -> Vec<BackendOptions> {
    [Some(tract()), onnxruntime(test)].into_iter().flatten().collect()
}

fn prepare(model: &Model, pictures: &[RgbImage]) -> Vec<f32> {
    let length = model.preprocess().tensor_len();
    let mut pixels = vec![0.0; pictures.len() * length];
    for (picture, pixels) in pictures.iter().zip(pixels.chunks_mut(length)) {
        model.preprocess().apply(picture, pixels).unwrap();
    }
    pixels
}

fn embed(model: &Model, backend: &mut dyn Backend, pictures: &[RgbImage]) -> Vec<f32> {
    backend.embed(pictures.len(), &prepare(model, pictures)).unwrap()
}

fn colour(levels: [u8; 3]) -> RgbImage {
    RgbImage::from_pixel(20, 10, Rgb(levels))
}

/// Waves and blocks of seven kinds; the first is one even grey.
fn pictures() -> Vec<RgbImage> {
    let wave = |n: u32, x: u32| (f64::from(n * x) / 40.0).sin() * 120.0 + 127.0;
    let pixel = |n: u32, x: u32, y: u32| match n {
        0 => [128; 3],
        1 | 2 => [wave(n, x) as u8, wave(n + 1, y) as u8, 90],
        3 | 4 => [if (x / (n * 7) + y / 20).is_multiple_of(2) { 230 } else { 20 }; 3],
        _ => [wave(n, x + y) as u8, wave(n, x * y / 60) as u8, (x * n) as u8],
    };
    (0..7).map(|n| RgbImage::from_fn(150 + n * 31, 120, |x, y| Rgb(pixel(n, x, y)))).collect()
}

#[test]
fn the_numbers_are_those_of_the_graph() {
    // Mean colour (r, g, b), times a matrix that gives (r, g, b, r + g + b), brought to length 1.
    let wanted = |[r, g, b]: [f32; 3]| {
        let length = (r * r + g * g + b * b + (r + g + b).powi(2)).sqrt();
        [r / length, g / length, b / length, (r + g + b) / length]
    };
    let colours = [[255, 0, 0], [0, 255, 0], [51, 102, 153], [0, 0, 0], [1, 2, 3]];
    let pictures: Vec<RgbImage> = colours.iter().map(|levels| colour(*levels)).collect();
    for options in every_backend("the_numbers_are_those_of_the_graph") {
        for name in
            ["plain.onnx", "one-at-a-time.onnx", "batch-of-4.onnx", "external.onnx", "open-shapes.onnx"]
        {
            let model = model(name).unwrap();
            let mut backend = open_backend(&model, &options).unwrap();
            assert_eq!(backend.dim(), 4, "{name}");
            let vectors = embed(&model, backend.as_mut(), &pictures);
            for (vector, levels) in vectors.chunks(4).zip(colours) {
                let wanted = match levels {
                    [0, 0, 0] => [0.0; 4], // no direction, and none is made up
                    levels => wanted(levels.map(|level| f32::from(level) / 255.0)),
                };
                let off = vector.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{} {name} {levels:?}: {vector:?} is not {wanted:?}", backend.name());
            }
            assert!(backend.embed(0, &[]).unwrap().is_empty());
        }
    }
}

#[test]
fn several_backends_work_at_once() {
    let model = model("plain.onnx").unwrap();
    let pictures = pictures();
    let options = every_backend("several_backends_work_at_once");
    let wanted: Vec<Vec<f32>> = options
        .iter()
        .map(|options| embed(&model, open_backend(&model, options).unwrap().as_mut(), &pictures))
        .collect();
    std::thread::scope(|scope| {
        for (options, wanted) in options.iter().zip(&wanted).cycle().take(4) {
            let (model, pictures) = (&model, &pictures);
            scope.spawn(move || {
                let mut backend = open_backend(model, options).unwrap();
                for _ in 0..2 {
                    assert_eq!(&embed(model, backend.as_mut(), pictures), wanted, "{}", backend.name());
                }
            });
        }
    });
}

#[test]
fn a_backend_stays_usable_after_a_refusal() {
    let model = model("plain.onnx").unwrap();
    for options in every_backend("a_backend_stays_usable_after_a_refusal") {
        let mut backend = open_backend(&model, &options).unwrap();
        let pixels = prepare(&model, &[colour([9, 9, 9])]);
        let error = backend.embed(2, &pixels).unwrap_err();
        assert!(matches!(error, Error::BadValue { .. }), "{error}");
        assert_eq!(backend.embed(1, &pixels).unwrap().len(), 4);
    }
}

#[test]
fn the_output_is_the_one_that_is_a_vector() {
    for options in every_backend("the_output_is_the_one_that_is_a_vector") {
        let model = model("two-outputs.onnx").unwrap();
        let mut backend = open_backend(&model, &options).unwrap();
        let vector = embed(&model, backend.as_mut(), &[colour([200, 0, 0])]);
        assert_eq!(vector, [1.0, 0.0, 0.0], "{}", backend.name());
    }
    let by_name = |output| Model::from_file(&path("two-outputs.onnx"), &eight(), Some(output));
    assert_eq!(
        by_name("pooler_output").unwrap().fingerprint(),
        model("two-outputs.onnx").unwrap().fingerprint()
    );
    let states = by_name("last_hidden_state").unwrap_err().to_string();
    assert!(states.contains("--output") && states.contains("pooler_output [N, 3]"), "{states}");
    let nothing = by_name("nothing").unwrap_err().to_string();
    assert!(nothing.contains("expected an output nothing"), "{nothing}");
}

#[test]
fn graphs_of_half_precision_get_and_give_what_they_want() {
    let pictures: Vec<RgbImage> = [[255, 0, 0], [51, 102, 153], [0, 200, 7]].map(colour).into();
    let exact = model("plain.onnx").unwrap();
    let wanted = embed(&exact, open_backend(&exact, &tract()).unwrap().as_mut(), &pictures);
    for options in every_backend("graphs_of_half_precision_get_and_give_what_they_want") {
        // bf16 has 8 bits, f16 has 11.
        for (name, most) in [("half.onnx", 1e-3), ("half-both.onnx", 1e-3), ("brain.onnx", 8e-3)] {
            let model = model(name).unwrap();
            if name == "brain.onnx" && options.choice == BackendChoice::Tract {
                let Err(error) = open_backend(&model, &options) else { panic!("tract knows bf16 now") };
                let error = error.to_string();
                assert!(error.contains("bf16") && error.contains("pip install onnxruntime"), "{error}");
                continue;
            }
            let mut backend = open_backend(&model, &options).unwrap();
            let vectors = embed(&model, backend.as_mut(), &pictures);
            let off = vectors.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < most && vectors.len() == 12, "{} {name}: off by {off}", backend.name());
            assert!(off > 1e-6, "{name}: nothing was of half precision");
        }
    }
}

/// Takes pictures as its model wants them, and as nothing else.
struct Strict {
    inner: Box<dyn Backend>,
    wanted: PixelType,
}

impl Backend for Strict {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn preferred_batch(&self) -> usize {
        self.inner.preferred_batch()
    }

    fn embed(&mut self, _: usize, _: &[f32]) -> vecstore_embed::Result<Vec<f32>> {
        panic!("a lane has nothing to convert");
    }

    fn pixel_type(&self) -> PixelType {
        self.inner.pixel_type()
    }

    fn embed_pixels(&mut self, batch: usize, pixels: Pixels<'_>) -> vecstore_embed::Result<Vec<f32>> {
        let found = match pixels {
            Pixels::F32(_) => PixelType::F32,
            Pixels::F16(_) => PixelType::F16,
            Pixels::Bf16(_) => PixelType::Bf16,
        };
        assert_eq!(found, self.wanted);
        self.inner.embed_pixels(batch, pixels)
    }
}

/// A run prepares pictures as the model wants them; a search prepares one in f32, which the backend converts. To the bit they
/// make the same vectors.
#[test]
fn pictures_are_prepared_in_the_type_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().canonicalize().unwrap().join("photos");
    std::fs::create_dir(&photos).unwrap();
    let mut noise = 1u64;
    for at in 0..11 {
        let picture = RgbImage::from_fn(23 + at, 17, |_, _| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [.., red, green, blue] = noise.to_le_bytes();
            image::Rgb([red, green, blue / 2])
        });
        picture.save(photos.join(format!("{at}.png"))).unwrap();
    }
    for options in every_backend("pictures_are_prepared_in_the_type_of_the_model") {
        for (name, wanted) in [
            ("plain.onnx", PixelType::F32),
            ("half.onnx", PixelType::F16),
            ("half-both.onnx", PixelType::F16),
            ("brain.onnx", PixelType::Bf16),
        ] {
            let model = model(name).unwrap();
            if wanted == PixelType::Bf16 && options.choice == BackendChoice::Tract {
                continue;
            }
            let store = folder.path().join(format!("{:?}-{name}.vecs", options.choice));
            let inner = open_backend(&model, &options).unwrap();
            let run = vecstore_embed::Run::new(&photos, &store).with_batch_size(4);
            assert_eq!(run.run_on(&model, Box::new(Strict { inner, wanted })).unwrap().embedded, 11);
            let mut backend = open_backend(&model, &options).unwrap();
            let snapshot = vecstore::Reader::open(&store).unwrap().snapshot();
            for at in 0..11 {
                let file = format!("{at}.png");
                let alone = vecstore_embed::embed_picture(
                    &model,
                    backend.as_mut(),
                    &photos.join(&file),
                    &Default::default(),
                );
                let bits = |vector: Vec<f32>| vector.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                let stored = snapshot.get(&file).unwrap().unwrap().to_f32().unwrap();
                assert_eq!(bits(stored), bits(alone.unwrap()), "{} {file}", backend.name());
            }
            // Of whatever type: a half is a half in all of them.
            let length = 3 * 8 * 8;
            let (halves, brains) =
                (vec![half::f16::from_f32(0.5); length], vec![half::bf16::from_f32(0.5); length]);
            let same = [Pixels::F32(&vec![0.5; length]), Pixels::F16(&halves), Pixels::Bf16(&brains)]
                .map(|pixels| backend.embed_pixels(1, pixels).unwrap());
            assert!(same[0] == same[1] && same[1] == same[2], "{} {name}: {same:?}", backend.name());
        }
    }
}

#[test]
fn the_output_that_is_called_an_embedding_is_it() {
    let model = model("clip-like.onnx").unwrap();
    assert!(model.fingerprint().description().contains("output image_embeds"), "of pooler_output and that");
    for options in every_backend("the_output_that_is_called_an_embedding_is_it") {
        assert_eq!(open_backend(&model, &options).unwrap().dim(), 4);
    }
}

#[test]
fn vectors_are_left_as_they_are_when_asked() {
    let unscaled = OutputOptions { normalise: Normalise::None, ..OutputOptions::default() };
    let raw = Model::from_file_with(&path("plain.onnx"), &eight(), &unscaled).unwrap();
    let scaled = model("plain.onnx").unwrap();
    assert_ne!(raw.fingerprint().id(), scaled.fingerprint().id());
    assert!(raw.fingerprint().description().contains("of any length"));
    for options in every_backend("vectors_are_left_as_they_are_when_asked") {
        let vector = embed(&raw, open_backend(&raw, &options).unwrap().as_mut(), &[colour([51, 102, 153])]);
        for (found, wanted) in vector.iter().zip([0.2, 0.4, 0.6, 1.2]) {
            assert!((found - wanted).abs() < 1e-6, "{vector:?}");
        }
    }
}

#[test]
fn models_that_cannot_be_used_say_why() {
    let text = |name| model(name).unwrap_err().to_string();
    let refused = [
        ("tokens.onnx", "found last_hidden_state [N, 64, 3]; name one [N, D] with --output"),
        (
            "two-inputs.onnx",
            "found 2 inputs (input_ids [N, 77] of something that is no f32, f16 or bf16, pixel_values [N, 3, 8, 8])",
        ),
        ("flat-input.onnx", "expected one input [N, 3, 8, 8] of f32, f16 or bf16, found pixel_values [N, 3]"),
        ("unclear.onnx", "found a [N, 3], b [N, 3]; name one [N, D] with --output"),
        ("make.py", "expected an ONNX model"),
        ("missing.onnx", "cannot read the model"),
    ];
    for (name, words) in refused {
        let text = text(name);
        assert!(text.contains(words) && text.contains(name), "{name}: {text}");
    }
    let other_size = PreprocessOverrides { size: Some("9x8".parse().unwrap()), ..eight() };
    let other_size = Model::from_file(&path("plain.onnx"), &other_size, None).unwrap_err().to_string();
    assert!(other_size.contains("of f32, f16 or bf16, found pixel_values [N, 3, 8, 8]"));

    for options in every_backend("models_that_cannot_be_used_say_why") {
        let unknown = model("unknown-operator.onnx").unwrap();
        let Err(error) = open_backend(&unknown, &options) else { panic!("an operator nobody has was run") };
        let error = error.to_string();
        assert!(error.contains("unknown-operator.onnx") && error.contains("Frobnicate"), "{error}");
    }
}

#[test]
fn a_library_for_the_processor_is_refused_for_a_card() {
    let Some(mut options) = onnxruntime("a_library_for_the_processor_is_refused_for_a_card") else { return };
    let model = model("plain.onnx").unwrap();
    for choice in [BackendChoice::OnnxRuntime, BackendChoice::Auto] {
        for device in ["cuda:0", "tensorrt:1"] {
            (options.choice, options.device) = (choice, device.parse().unwrap());
            let Err(error) = open_backend(&model, &options) else { panic!("opened {device}") };
            let text = error.to_string();
            assert!(matches!(error, Error::Device { .. }), "{text}");
            assert!(text.contains(&format!("device {device} was asked for")), "{text}");
            assert!(text.contains("onnxruntime_providers") || text.contains("driver"), "{text}");
        }
    }
    // The process is none the worse for it.
    options.device = Device::cpu();
    assert!(open_backend(&model, &options).is_ok());
}

#[test]
fn operators_are_counted_where_they_run() {
    let model = model("plain.onnx").unwrap();
    let count = |options: &BackendOptions| {
        let options = BackendOptions { profile: true, ..options.clone() };
        let backend = open_backend(&model, &options).unwrap();
        backend.placement().map(|placement| (placement.of(Provider::Cpu), placement.on_gpu()))
    };
    assert_eq!(count(&tract()), None);
    let Some(options) = onnxruntime("operators_are_counted_where_they_run") else { return };
    assert_eq!(count(&options), Some((2, 0)), "a mean and a product");
    assert!(open_backend(&model, &options).unwrap().placement().is_none(), "only when asked for");
}

#[test]
fn a_model_that_mixes_the_pictures_of_a_batch_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    for (at, levels) in [[255, 0, 0], [0, 255, 0], [51, 102, 153], [1, 2, 200]].into_iter().enumerate() {
        colour(levels).save(folder.path().join(format!("{at}.png"))).unwrap();
    }
    let pictures = Pictures::of_folder(folder.path(), 4).unwrap();
    for options in every_backend("a_model_that_mixes_the_pictures_of_a_batch_is_found_out") {
        let examined = |name: &str| {
            let mut examination = Options::new(4, 1);
            examination.seconds = 0.01;
            examine(&model(name).unwrap(), &options, &pictures, &examination).unwrap()
        };
        let report = examined("plain.onnx");
        assert!(report.batch.is_same() && report.batch.pictures == 4, "{report:?}");
        assert!(report.processor.is_none() && report.lanes == 1 && report.dim == 4);
        for rate in [report.rates.decode, report.rates.resize, report.rates.prepare, report.rates.bare] {
            assert!(rate > 0.0 && rate.is_finite(), "{report:?}");
        }
        match options.choice {
            // It takes pictures one at a time, so nothing mixes.
            BackendChoice::Tract => {
                assert!(report.library.is_none() && examined("leaky.onnx").batch.is_same())
            }
            _ => {
                assert_eq!(report.library.clone().unwrap().2, [Provider::Cpu], "{report:?}");
                let mixed = examined("leaky.onnx").batch;
                assert!(!mixed.is_same() && mixed.difference > 0.01, "{mixed:?}");
            }
        }
    }
}

#[test]
fn lanes_are_opened_as_asked() {
    let model = model("plain.onnx").unwrap();
    for options in every_backend("lanes_are_opened_as_asked") {
        assert_eq!(open_lanes(&model, &options, None).unwrap().len(), 1);
        let mut lanes = open_lanes(&model, &options, Some(3)).unwrap();
        let pictures = [colour([255, 0, 0]), colour([1, 2, 3])];
        let vectors: Vec<_> = lanes.iter_mut().map(|lane| embed(&model, lane.as_mut(), &pictures)).collect();
        assert!(vectors.len() == 3 && vectors.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn what_is_computed_in_less_is_another_model() {
    let of = |precision| {
        let output = OutputOptions { precision, ..OutputOptions::default() };
        Model::from_file_with(&path("plain.onnx"), &eight(), &output).unwrap()
    };
    let (full, half) = (of(Precision::Full), of(Precision::F16));
    assert_eq!(full.fingerprint(), model("plain.onnx").unwrap().fingerprint());
    assert_ne!(full.fingerprint().id(), half.fingerprint().id());
    assert!(half.fingerprint().description().contains("computed in fp16"));
    // What is stored has to be of that kind; a query need not.
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(folder.path(), folder.path().join("a.vecs")).with_backend(tract());
    let error = run.run(&half).unwrap_err().to_string();
    assert!(error.contains("except with --device tensorrt") && error.contains("fp16"), "{error}");
    let mut query = open_backend(&half, &tract()).unwrap();
    assert_eq!(embed(&half, query.as_mut(), &[colour([255, 0, 0])]).len(), 4);
}

#[test]
fn the_description_beside_a_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("plain.onnx");
    std::fs::copy(path("plain.onnx"), &copy).unwrap();
    let none = PreprocessOverrides::default();

    let error = Model::from_file(&copy, &none, None).unwrap_err().to_string();
    for words in
        ["plain.onnx", "put the preprocessor_config.json that was", "--size, --mean, --std are not given"]
    {
        assert!(error.contains(words), "{error}");
    }
    let only_size = PreprocessOverrides { size: eight().size, ..none };
    let error = Model::from_file(&copy, &only_size, None).unwrap_err().to_string();
    assert!(error.contains("--mean, --std are not given"), "{error}");

    let config = folder.path().join("preprocessor_config.json");
    std::fs::write(&config, r#"{"image_processor_type": "ViTImageProcessor", "size": 8}"#).unwrap();
    let read = Model::from_file(&copy, &none, None).unwrap();
    assert!(
        read.preprocess().canonical().contains("resize 8x8 bilinear"),
        "{}",
        read.preprocess().canonical()
    );

    // One that is not understood is no obstacle when the options say all.
    std::fs::write(&config, r#"{"image_processor_type": "Frobnicator"}"#).unwrap();
    let error = Model::from_file(&copy, &only_size, None).unwrap_err().to_string();
    assert!(error.contains("Frobnicator") && error.contains("--size, --mean and --std"), "{error}");
    assert!(Model::from_file(&copy, &eight(), None).is_ok());
}

#[test]
fn the_fingerprint_follows_what_vectors_depend_on() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["external.onnx", "external.bin"] {
        std::fs::copy(path(name), folder.path().join(name)).unwrap();
    }
    let copy = folder.path().join("external.onnx");
    let moved = Model::from_file(&copy, &eight(), None).unwrap();
    let original = model("external.onnx").unwrap();
    assert_eq!(moved.fingerprint(), original.fingerprint(), "the place does not matter");
    assert_ne!(original.fingerprint().id(), model("plain.onnx").unwrap().fingerprint().id());
    assert!(original.fingerprint().description().starts_with("external.onnx "));

    let box_filter = PreprocessOverrides { filter: Some("box".parse().unwrap()), ..eight() };
    let filtered = Model::from_file(&copy, &box_filter, None).unwrap();
    assert_ne!(filtered.fingerprint().id(), original.fingerprint().id(), "the filter matters");

    let weights = folder.path().join("external.bin");
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let changed = Model::from_file(&copy, &eight(), None).unwrap();
    assert_ne!(changed.fingerprint().id(), original.fingerprint().id(), "weights beside the model matter");

    std::fs::remove_file(&weights).unwrap();
    let error = Model::from_file(&copy, &eight(), None).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == weights), "{error}");
}

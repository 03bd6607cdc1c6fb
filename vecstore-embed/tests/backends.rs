//! Models of all shapes through both backends.
//!
//! ONNX Runtime is taken from `ORT_DYLIB_PATH`. Without it those halves say that they were left out;
//! everything else runs.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use vecstore_embed::backend::{
    Batch, BatchInput, Encoder, Output, Placement, Provider, Signature, open_encoder, open_lanes,
};
use vecstore_embed::doctor::{Options, Pictures, examine};
use vecstore_embed::tensor::{Element, View};
use vecstore_embed::{
    BackendChoice, BackendOptions, Device, Embedder, Error, Files, Model, Normalise, OutputOptions,
    Precision, PreprocessOverrides, Run,
};

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

/// The model in that engine, or why it cannot be opened there.
fn open(model: &Model, options: &BackendOptions) -> Result<Embedder, Error> {
    let embedder = Embedder::builder(model).backend(options.clone()).build();
    embedder.describe().map(|_| embedder)
}

fn name(embedder: &Embedder) -> String {
    embedder.describe().unwrap().0
}

/// All vectors, one behind the other.
fn embed(embedder: &Embedder, pictures: &[RgbImage]) -> Vec<f32> {
    let embedded = embedder.embed_all(pictures).unwrap();
    embedded.into_iter().flat_map(|embedded| embedded.unwrap().into_vector().unwrap()).collect()
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
            let embedder = open(&model, &options).unwrap();
            let (backend, dim) = embedder.describe().unwrap();
            assert_eq!(dim, 4, "{name}");
            let vectors = embed(&embedder, &pictures);
            for (vector, levels) in vectors.chunks(4).zip(colours) {
                let wanted = match levels {
                    [0, 0, 0] => [0.0; 4], // no direction, and none is made up
                    levels => wanted(levels.map(|level| f32::from(level) / 255.0)),
                };
                let off = vector.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{backend} {name} {levels:?}: {vector:?} is not {wanted:?}");
            }
            assert!(embed(&embedder, &[]).is_empty());
        }
    }
}

#[test]
fn several_backends_work_at_once() {
    let model = model("plain.onnx").unwrap();
    let pictures = pictures();
    let options = every_backend("several_backends_work_at_once");
    let wanted: Vec<Vec<f32>> =
        options.iter().map(|options| embed(&open(&model, options).unwrap(), &pictures)).collect();
    std::thread::scope(|scope| {
        for (options, wanted) in options.iter().zip(&wanted).cycle().take(4) {
            let (model, pictures) = (&model, &pictures);
            scope.spawn(move || {
                let embedder = open(model, options).unwrap();
                for _ in 0..2 {
                    assert_eq!(&embed(&embedder, pictures), wanted, "{}", name(&embedder));
                }
            });
        }
    });
}

#[test]
fn an_encoder_stays_usable_after_a_refusal() {
    let model = model("plain.onnx").unwrap();
    for options in every_backend("an_encoder_stays_usable_after_a_refusal") {
        let mut encoder = open_encoder(&model, &options).unwrap();
        let numbers = vec![0.5f32; 3 * 8 * 8];
        let input = BatchInput { name: "pixel_values", shape: &[3, 8, 8], numbers: View::new(&numbers) };
        let halves = vec![half::f16::ONE; 3 * 8 * 8];
        let refused = [
            Batch { items: 2, inputs: vec![input] },
            Batch { items: 1, inputs: vec![] },
            Batch { items: 1, inputs: vec![BatchInput { numbers: View::new(&halves), ..input }] },
            Batch { items: 1, inputs: vec![BatchInput { shape: &[3, 4, 16], ..input }] },
        ];
        for batch in refused {
            let error = encoder.run(&batch).unwrap_err();
            assert!(matches!(error, Error::BadValue { .. }), "{error}");
        }
        let output = encoder.run(&Batch { items: 1, inputs: vec![input] }).unwrap().remove(0);
        assert_eq!((output.shape, output.numbers.len()), (vec![1, 4], 4));
    }
}

#[test]
fn the_output_is_the_one_that_is_a_vector() {
    for options in every_backend("the_output_is_the_one_that_is_a_vector") {
        let model = model("two-outputs.onnx").unwrap();
        let embedder = open(&model, &options).unwrap();
        assert_eq!(embed(&embedder, &[colour([200, 0, 0])]), [1.0, 0.0, 0.0], "{}", name(&embedder));
    }
    let by_name = |output| Model::from_file(&path("two-outputs.onnx"), &eight(), Some(output));
    assert_eq!(
        by_name("pooler_output").unwrap().fingerprint(),
        model("two-outputs.onnx").unwrap().fingerprint()
    );
    let states = by_name("last_hidden_state").unwrap_err().to_string();
    assert!(states.contains("name an output") && states.contains("pooler_output [N, 3]"), "{states}");
    let nothing = by_name("nothing").unwrap_err().to_string();
    assert!(nothing.contains("expected an output nothing"), "{nothing}");
}

#[test]
fn graphs_of_half_precision_get_and_give_what_they_want() {
    let pictures: Vec<RgbImage> = [[255, 0, 0], [51, 102, 153], [0, 200, 7]].map(colour).into();
    let exact = model("plain.onnx").unwrap();
    let wanted = embed(&open(&exact, &tract()).unwrap(), &pictures);
    for options in every_backend("graphs_of_half_precision_get_and_give_what_they_want") {
        // bf16 has 8 bits, f16 has 11.
        for (name, most) in [("half.onnx", 1e-3), ("half-both.onnx", 1e-3), ("brain.onnx", 8e-3)] {
            let model = model(name).unwrap();
            if name == "brain.onnx" && options.choice == BackendChoice::Tract {
                let Err(error) = open(&model, &options) else { panic!("tract knows bf16 now") };
                let error = error.to_string();
                assert!(error.contains("bf16") && error.contains("pip install onnxruntime"), "{error}");
                continue;
            }
            let vectors = embed(&open(&model, &options).unwrap(), &pictures);
            let off = vectors.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < most && vectors.len() == 12, "{:?} {name}: off by {off}", options.choice);
            assert!(off > 1e-6, "{name}: nothing was of half precision");
        }
    }
}

/// Takes pictures as its model wants them, and as nothing else.
struct Strict {
    inner: Box<dyn Encoder>,
    wanted: Element,
}

impl Encoder for Strict {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&mut self, batch: &Batch<'_>) -> vecstore_embed::Result<Vec<Output>> {
        assert_eq!(batch.inputs[0].numbers.element(), self.wanted);
        self.inner.run(batch)
    }

    fn placement(&self) -> Option<&Placement> {
        self.inner.placement()
    }
}

/// A run and a query prepare pictures as the model wants them. To the bit they make the same vectors.
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
            ("plain.onnx", Element::F32),
            ("half.onnx", Element::F16),
            ("half-both.onnx", Element::F16),
            ("brain.onnx", Element::Bf16),
        ] {
            let model = model(name).unwrap();
            if wanted == Element::Bf16 && options.choice == BackendChoice::Tract {
                continue;
            }
            let store = folder.path().join(format!("{:?}-{name}.vecs", options.choice));
            let inner = open_encoder(&model, &options).unwrap();
            let strict =
                Embedder::builder(&model).batch(4).encoders(vec![Box::new(Strict { inner, wanted })]).build();
            let run = Run::new(Files::new(&photos), &store);
            assert_eq!(run.run(&strict).unwrap().embedded, 11);
            let embedder = open(&model, &options).unwrap();
            let snapshot = vecstore::Reader::open(&store).unwrap().snapshot();
            for at in 0..11 {
                let file = format!("{at}.png");
                let alone = embedder.embed_file(&photos.join(&file)).unwrap();
                let bits = |vector: Vec<f32>| vector.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                let stored = snapshot.get(&file).unwrap().unwrap().to_f32().unwrap();
                assert_eq!(bits(stored), bits(alone), "{:?} {file}", options.choice);
            }
        }
    }
}

#[test]
fn the_output_that_is_called_an_embedding_is_it() {
    let model = model("clip-like.onnx").unwrap();
    assert!(model.fingerprint().description().contains("output image_embeds"), "of pooler_output and that");
    for options in every_backend("the_output_that_is_called_an_embedding_is_it") {
        assert_eq!(open(&model, &options).unwrap().describe().unwrap().1, 4);
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
        let vector = embed(&open(&raw, &options).unwrap(), &[colour([51, 102, 153])]);
        for (found, wanted) in vector.iter().zip([0.2, 0.4, 0.6, 1.2]) {
            assert!((found - wanted).abs() < 1e-6, "{vector:?}");
        }
    }
}

#[test]
fn models_that_cannot_be_used_say_why() {
    let text = |name| model(name).unwrap_err().to_string();
    let refused = [
        ("tokens.onnx", "found last_hidden_state [N, 64, 3]; name an output [N, D]"),
        (
            "two-inputs.onnx",
            "found 2 inputs (input_ids [N, 77] of something that is no f32, f16 or bf16, pixel_values [N, 3, \
             8, 8])",
        ),
        ("flat-input.onnx", "expected one input [N, 3, 8, 8] of f32, f16 or bf16, found pixel_values [N, 3]"),
        ("unclear.onnx", "found a [N, 3], b [N, 3]; name an output [N, D]"),
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
        let Err(error) = open(&unknown, &options) else { panic!("an operator that no engine has was run") };
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
            let Err(error) = open_encoder(&model, &options) else { panic!("opened {device}") };
            let text = error.to_string();
            assert!(matches!(error, Error::Device { .. }), "{text}");
            assert!(text.contains(&format!("device {device} was asked for")), "{text}");
            assert!(text.contains("onnxruntime_providers") || text.contains("driver"), "{text}");
        }
    }
    // The process is none the worse for it.
    options.device = Device::cpu();
    assert!(open_encoder(&model, &options).is_ok());
}

#[test]
fn operators_are_counted_where_they_run() {
    let model = model("plain.onnx").unwrap();
    let count = |options: &BackendOptions| {
        let options = BackendOptions { profile: true, ..options.clone() };
        let backend = open_encoder(&model, &options).unwrap();
        backend.placement().map(|placement| (placement.of(Provider::Cpu), placement.on_gpu()))
    };
    assert_eq!(count(&tract()), None);
    let Some(options) = onnxruntime("operators_are_counted_where_they_run") else { return };
    assert_eq!(count(&options), Some((2, 0)), "a mean and a product");
    assert!(open_encoder(&model, &options).unwrap().placement().is_none(), "only when asked for");
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
        assert!(report.batch.same && report.batch.pictures == 4, "{report:?}");
        assert!(report.processor.is_none() && report.lanes == 1 && report.dim == 4);
        for rate in [report.rates.decode, report.rates.resize, report.rates.prepare, report.rates.bare] {
            assert!(rate > 0.0 && rate.is_finite(), "{report:?}");
        }
        match options.choice {
            // It takes pictures one at a time, so nothing mixes.
            BackendChoice::Tract => {
                assert!(report.library.is_none() && examined("leaky.onnx").batch.same)
            }
            _ => {
                assert_eq!(report.library.clone().unwrap().providers, [Provider::Cpu], "{report:?}");
                let mixed = examined("leaky.onnx").batch;
                assert!(!mixed.same && mixed.difference > 0.01, "{mixed:?}");
            }
        }
    }
}

#[test]
fn lanes_are_opened_as_asked() {
    let model = model("plain.onnx").unwrap();
    for options in every_backend("lanes_are_opened_as_asked") {
        assert_eq!(open_lanes(&model, &options, None).unwrap().len(), 1);
        let lanes = open_lanes(&model, &options, Some(3)).unwrap();
        let pictures = [colour([255, 0, 0]), colour([1, 2, 3])];
        let alone = |lane| embed(&Embedder::builder(&model).encoders(vec![lane]).build(), &pictures);
        let vectors: Vec<_> = lanes.into_iter().map(alone).collect();
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
    let query = open(&half, &tract()).unwrap();
    let run = Run::new(Files::new(folder.path()), folder.path().join("a.vecs"));
    let error = run.run(&query).unwrap_err().to_string();
    assert!(error.contains("except with the device tensorrt") && error.contains("fp16"), "{error}");
    assert_eq!(embed(&query, &[colour([255, 0, 0])]).len(), 4);
}

#[test]
fn the_description_beside_a_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("plain.onnx");
    std::fs::copy(path("plain.onnx"), &copy).unwrap();
    let none = PreprocessOverrides::default();

    let error = Model::from_file(&copy, &none, None).unwrap_err().to_string();
    for words in ["plain.onnx", "put the preprocessor_config.json that was", "size, mean, std are not given"]
    {
        assert!(error.contains(words), "{error}");
    }
    let only_size = PreprocessOverrides { size: eight().size, ..none };
    let error = Model::from_file(&copy, &only_size, None).unwrap_err().to_string();
    assert!(error.contains("mean, std are not given"), "{error}");

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
    assert!(
        error.contains("Frobnicator") && error.contains("the size, the mean and the deviation"),
        "{error}"
    );
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

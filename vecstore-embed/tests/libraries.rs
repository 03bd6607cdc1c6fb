//! Everything that a file given as ONNX Runtime library can be, but a good one.
//!
//! Apart from `backends.rs`, because a process that has loaded a good library keeps it.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use vecstore_embed::Error;
use vecstore_embed::backend::{BackendChoice, BackendOptions, open_encoder};
use vecstore_embed::{Model, PreprocessOverrides};

/// The smallest model there is: 8 x 8 pixels.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/plain.onnx");

/// The options that say how pictures are prepared for it.
const PREPARED: [&str; 3] = ["--size=8x8", "--mean=0", "--std=1"];

fn model() -> Model {
    let overrides = PreprocessOverrides {
        size: Some("8x8".parse().unwrap()),
        mean: Some([0.0; 3]),
        std: Some([1.0; 3]),
        ..PreprocessOverrides::default()
    };
    Model::from_file(Path::new(MODEL), &overrides, None).unwrap()
}

/// What opening a backend with this library says.
fn refused(library: &Path, choice: BackendChoice) -> String {
    let options =
        BackendOptions { choice, ort_lib: Some(library.to_owned()), threads: 1, ..BackendOptions::default() };
    match open_encoder(&model(), &options) {
        Ok(backend) => panic!("{} opened {}", library.display(), backend.name()),
        Err(error) => {
            assert!(matches!(error, Error::RuntimeLibrary { .. }), "{error}");
            error.to_string()
        }
    }
}

/// Says what is wrong, which file, what is needed and how to get it, also when ONNX Runtime was only the
/// first choice.
#[track_caller]
fn assert_refused(library: &Path, found: &str) {
    for choice in [BackendChoice::OnnxRuntime, BackendChoice::Auto] {
        let text = refused(library, choice);
        let name = library.file_name().unwrap_or_default().to_str().unwrap();
        for words in
            [name, found, "ONNX Runtime 1.17 or newer", "pip install onnxruntime", "name its libonnxruntime"]
        {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
    }
}

#[test]
fn what_is_not_there_or_no_library() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(&folder.path().join("libonnxruntime.so"), "No such file");
    assert_refused(folder.path(), "no regular file");
    let text = folder.path().join("text.so");
    std::fs::write(&text, "Dear diary,\n").unwrap();
    assert_refused(&text, "no 64-bit ELF library");
    std::fs::write(&text, "").unwrap();
    assert_refused(&text, "no 64-bit ELF library");
}

/// Builds a library from C source with the compiler that Rust links with.
fn compile(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (from, to) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&from, source).unwrap();
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&to, &from]).status().unwrap();
    assert!(done.success());
    to
}

/// A library with ONNX Runtime's entry point and nothing behind it.
fn stub(folder: &Path, name: &str, version: &str) -> PathBuf {
    let source = format!(
        "static const void *api(unsigned v) {{ (void)v; return 0; }}
         static const char *version(void) {{ return {version}; }}
         typedef struct {{ const void *(*a)(unsigned); const char *(*v)(void); }} Base;
        static const Base base = {{ api, version }};
         const void *OrtGetApiBase(void) {{ return &base; }}"
    );
    compile(folder, name, &source)
}

#[test]
fn libraries_that_are_not_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_refused(
        &compile(folder, "other", "int answer(void) { return 42; }"),
        "a library that is not ONNX Runtime",
    );
    let nothing = "const void *OrtGetApiBase(void) { return 0; }";
    assert_refused(&compile(folder, "nothing", nothing), "offers no interface");
    let needs = "extern int missing_symbol; int *use(void) { return &missing_symbol; }";
    assert_refused(&compile(folder, "needs", needs), "undefined symbol: missing_symbol");
    assert_refused(&stub(folder, "old", "\"1.16.3\""), "found version 1.16.3;");
    assert_refused(&stub(folder, "ancient", "\"0.5.0\""), "found version 0.5.0;");
    assert_refused(&stub(folder, "strange", "\"one\""), "version one");
    assert_refused(&stub(folder, "mute", "0"), "without a version");
    assert_refused(
        &stub(folder, "hollow", "\"1.31.1\""),
        "version 1.31.1, which does not offer the interface of 1.17",
    );

    // Cut anywhere, a library would end the process when it is loaded.
    let whole = std::fs::read(folder.join("old.so")).unwrap();
    let cut = folder.join("cut.so");
    for length in [100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        assert_refused(&cut, &format!("ends after {length} bytes"));
    }
}

/// A library that is complete as far as can be seen without calling it, in a folder as pip lays it out.
fn wheel(folder: &Path) -> PathBuf {
    let capi = folder.join("site-packages/onnxruntime/capi");
    std::fs::create_dir_all(&capi).unwrap();
    let source = "static const char table[65536];
         static const void *api(unsigned v) { (void)v; return table; }
         static const char *version(void) { return \"1.31.1\"; }
         static const struct { const void *(*a)(unsigned); const char *(*v)(void); } base = { api, version };
         const void *OrtGetApiBase(void) { return &base; }";
    compile(&capi, "libonnxruntime", source)
}

/// A provider that is linked with libraries of these names, which are put into `nvidia`.
fn provider(library: &Path, name: &str, nvidia: &Path, needs: &[&str]) {
    std::fs::create_dir_all(nvidia).unwrap();
    let source = nvidia.join("empty.c");
    std::fs::write(&source, "int nothing(void) { return 0; }").unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"]);
    command.arg(library.with_file_name(format!("libonnxruntime_providers_{name}.so"))).arg(&source);
    for need in needs {
        let file = nvidia.join(need);
        let soname = format!("-Wl,-soname,{need}");
        let done =
            Command::new("cc").args(["-shared", &soname, "-o"]).args([&file, &source]).status().unwrap();
        assert!(done.success());
        command.arg(&file);
    }
    assert!(command.status().unwrap().success());
}

/// What opening a device with this library says. None of these libraries may get as far as being used.
fn without(library: &Path, device: &str) -> String {
    let options = BackendOptions {
        ort_lib: Some(library.to_owned()),
        device: device.parse().unwrap(),
        ..BackendOptions::default()
    };
    let Err(error) = open_encoder(&model(), &options) else { panic!("opened {device}") };
    assert!(matches!(error, Error::Device { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(device) && text.contains(&library.display().to_string()), "{text}");
    text
}

#[test]
fn what_a_card_lacks_is_named_with_the_packages_that_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (library, elsewhere) = (wheel(&folder), folder.join("elsewhere"));
    let text = without(&library, "cuda:0");
    assert!(text.contains("no libonnxruntime_providers_shared.so beside it"), "{text}");
    provider(&library, "shared", &elsewhere, &[]);
    let text = without(&library, "cuda:0");
    assert!(text.contains("no libonnxruntime_providers_cuda.so beside it: this build computes on"), "{text}");
    assert!(text.contains("pip install 'onnxruntime-gpu[cuda,cudnn]'"), "{text}");

    // No release of CUDA that a driver could have.
    let needs = ["libcudart.so.99", "libcublas.so.99"];
    provider(&library, "cuda", &elsewhere, &needs);
    let text = without(&library, "cuda:0");
    for words in [
        "no libcudart.so.99 (pip: nvidia-cuda-runtime, apt: cuda-cudart-99-*)",
        "no libcublas.so.99 (pip: nvidia-cublas, apt: libcublas-99-*)",
        "LD_LIBRARY_PATH",
    ] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let text = without(&library, "tensorrt:0");
    assert!(
        text.contains("no libonnxruntime_providers_tensorrt.so beside it: this build is without"),
        "{text}"
    );
    provider(&library, "tensorrt", &elsewhere, &["libnvinfer.so.98"]);
    let text = without(&library, "tensorrt:0");
    assert!(text.contains("libnvinfer.so.98 (pip: tensorrt-cu99==98.*, apt: libnvinfer98)"), "{text}");
    assert!(text.contains("the device cuda needs no TensorRT"), "{text}");

    // Where pip puts them they are found without being told.
    let lib = folder.join("site-packages/nvidia/cu99/lib");
    std::fs::create_dir_all(&lib).unwrap();
    for need in needs {
        std::fs::rename(elsewhere.join(need), lib.join(need)).unwrap();
    }
    let text = without(&library, "cuda:0");
    assert!(!text.contains("libcublas"), "{text}");
    assert!(text.contains("no driver") || text.contains("a driver for CUDA"), "{text}");
}

/// A driver's library that says these things.
fn fake_driver(folder: &Path, init: i32, version: i32) {
    let source = format!(
        "#include <string.h>
         int cuInit(unsigned f) {{ return {init}; }}
         int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }}
         int cuDeviceGetCount(int *c) {{ *c = 1; return 0; }}
         int cuDeviceGet(int *d, int n) {{ *d = n; return 0; }}
         int cuDeviceGetName(char *s, int l, int d) {{ strncpy(s, \"Imaginary 1\", l); return 0; }}
         int cuDeviceTotalMem_v2(unsigned long *m, int d) {{ *m = 1ul << 34; return 0; }}
         int cuDeviceGetAttribute(int *v, int a, int d) {{ *v = 9; return 0; }}"
    );
    let built = compile(folder, "driver", &source);
    std::fs::rename(built, folder.join("libcuda.so.1")).unwrap();
}

#[test]
fn drivers_that_will_not_do_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (library, lib) = (wheel(&folder), folder.join("site-packages/nvidia/cu12/lib"));
    provider(&library, "shared", &lib, &[]);
    provider(&library, "cuda", &lib, &["libcudart.so.12"]);
    let photos = folder.join("photos");
    std::fs::create_dir(&photos).unwrap();
    image::RgbImage::new(8, 8).save(photos.join("a.png")).unwrap();
    for (init, version, card, words) in [
        (100, 12_000, 0, "found the driver finds no card (error 100 of cuInit); look at nvidia-smi"),
        (803, 12_000, 0, "a driver whose library and kernel module are of different versions"),
        (999, 12_000, 0, "a driver that does not start (error 999 of cuInit)"),
        (0, 11_080, 0, "a driver for CUDA 11.8, where this library was built for CUDA 12"),
        (0, 12_040, 1, "no card 1, only 0: Imaginary 1; cards are counted from 0"),
    ] {
        fake_driver(&folder, init, version);
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
        command.args(["run", "--quiet", "--device", &format!("cuda:{card}"), "--ort-lib"]).arg(&library);
        command.args(PREPARED).args(["--model", MODEL]);
        command.arg("--folder").arg(&photos).arg("--store").arg(folder.join("photos.vecs"));
        // In front of a driver that this machine may have.
        let output = command.env("LD_LIBRARY_PATH", &folder).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(words), "{words:?} is not in: {text}");
        assert!(!folder.join("photos.vecs").exists());
    }
}

/// What `doctor` prints, and what it exits with, where the driver is the one in `folder`.
fn doctor(folder: &Path, device: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args(["doctor", "--seconds=0.01", "--pictures=1", "--batch-size=1", "--device", device]);
    let output = command.args(["--backend=tract"]).env("LD_LIBRARY_PATH", folder).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn doctor_says_which_driver_there_is_and_fails_for_a_device_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let line = |out: &str, about: &str| {
        let line =
            out.lines().find(|line| line.starts_with(about)).unwrap_or_else(|| panic!("{about}: {out}"));
        line.trim_start_matches(about).trim_start().to_owned()
    };
    fake_driver(folder, 0, 12_040);
    let (code, out) = doctor(folder, "cpu");
    assert_eq!(code, Some(0), "{out}");
    assert_eq!(line(&out, "driver "), "for CUDA 12.4");
    assert_eq!(line(&out, "card "), "0: Imaginary 1, 16.00 GiB, compute capability 9.9");

    // What a run on the processor does not need is said, and is no failure; asked for, it is one.
    fake_driver(folder, 100, 12_040);
    for (device, expected) in [("cpu", 0), ("cuda", 1)] {
        let (code, out) = doctor(folder, device);
        assert_eq!(code, Some(expected), "{device}: {out}");
        let found = line(&out, "driver ");
        assert!(
            found.starts_with("the driver finds no card (error 100 of cuInit); look at nvidia-smi"),
            "{found}"
        );
        assert!(!out.contains("\ncard "), "{out}");
    }
}

/// The vectors of a batch are those of single pictures, or `doctor` fails and says so.
#[test]
#[ignore = "needs ORT_DYLIB_PATH"]
fn doctor_fails_for_a_model_that_mixes_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for (at, colour) in [[255, 0, 0], [0, 255, 0], [51, 102, 153], [1, 2, 200]].into_iter().enumerate() {
        let picture = image::RgbImage::from_pixel(8, 8, image::Rgb(colour));
        picture.save(folder.path().join(format!("{at}.png"))).unwrap();
    }
    for (model, verdict, code) in [("plain", ": the same", 0), ("leaky", ": NOT THE SAME", 1)] {
        let model = format!("{}/tests/models/{model}.onnx", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
        command.args(["doctor", "--seconds=0.01", "--pictures=4", "--batch-size=4", "--backend=onnxruntime"]);
        command.args(["--size=8x8", "--mean=0", "--std=1", "--model", &model]);
        let output = command.arg("--folder").arg(folder.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(verdict), "{text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
    }
}

/// A process has one library: lanes after the first do not try those again that it could not use.
#[test]
#[ignore = "needs ORT_DYLIB_PATH"]
fn the_library_that_was_loaded_is_that_of_later_lanes() {
    let good = std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH names a library");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let photos = folder.join("photos");
    std::fs::create_dir(&photos).unwrap();
    image::RgbImage::new(8, 8).save(photos.join("a.png")).unwrap();
    // The plain name comes first.
    let bad = folder.join("libonnxruntime.so");
    std::fs::write(&bad, "Dear diary,\n").unwrap();
    std::os::unix::fs::symlink(good, folder.join("libonnxruntime.so.1.99.0")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args(["run", "--backend=onnxruntime", "--lanes=3"]).args(PREPARED).args(["--model", MODEL]);
    command.arg("--folder").arg(&photos);
    command.arg("--store").arg(folder.join("photos.vecs"));
    let output = command.env_remove("ORT_DYLIB_PATH").env("LD_LIBRARY_PATH", folder).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("in 3 lanes"), "{text}");
    assert_eq!(text.matches(bad.to_str().unwrap()).count(), 1, "one warning: {text}");
    assert!(!text.contains("already loaded"), "{text}");
}

#[test]
fn the_built_in_model_needs_no_engine_and_computes_on_the_processor_alone() {
    let named = BackendOptions { ort_lib: Some("/nowhere/lib.so".into()), ..BackendOptions::default() };
    let builtin = Model::builtin().unwrap();
    for choice in [BackendChoice::Auto, BackendChoice::Tract, BackendChoice::OnnxRuntime] {
        let options = BackendOptions { choice, ..named.clone() };
        assert_eq!(open_encoder(&builtin, &options).unwrap().name(), "plain Rust");
        let options = BackendOptions { device: "cuda:0".parse().unwrap(), ..options };
        let Err(error) = open_encoder(&builtin, &options) else { panic!("on a card") };
        assert!(error.to_string().contains("a card needs an ONNX file, found \"cuda:0\""), "{error}");
    }
}

#[test]
fn tract_computes_on_the_processor_alone() {
    let device = "cuda:0".parse().unwrap();
    let options = BackendOptions { choice: BackendChoice::Tract, device, ..BackendOptions::default() };
    let Err(error) = open_encoder(&model(), &options) else { panic!("tract on a card") };
    assert!(error.to_string().contains("cards need the backend onnxruntime, found \"cuda:0\""), "{error}");
}

#[test]
#[cfg(feature = "tract")]
fn tract_needs_no_library() {
    let options = BackendOptions {
        choice: BackendChoice::Tract,
        ort_lib: Some("/nowhere/lib.so".into()),
        threads: 1,
        ..BackendOptions::default()
    };
    let backend = open_encoder(&model(), &options).unwrap();
    assert_eq!(backend.name(), "tract 0.23");
}

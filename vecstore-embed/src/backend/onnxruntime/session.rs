//! A session of ONNX Runtime as a device wants it.

use std::fs;
use std::path::{Path, PathBuf};

use ort::ep::{self, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use tempfile::TempDir;

use super::super::BackendOptions;
use super::super::device::{Device, Provider};
use super::Runtime;
use crate::base::{Error, Result};
use crate::model::{BatchShape, Model, Precision};

/// What there is to decide about a session.
pub(super) struct Settings {
    device: Device,
    threads: usize,
    /// Pictures that it is always given.
    pub(super) fixed: Option<usize>,
    /// Where TensorRT keeps what it has built.
    pub(super) engines: Option<PathBuf>,
    /// Where the profile of the first run goes, if there is to be one.
    pub(super) profile: Option<TempDir>,
}

impl Settings {
    pub(super) fn new(model: &Model, runtime: &Runtime, options: &BackendOptions) -> Result<Self> {
        let device = options.device.clone();
        let fixed = device.wants_fixed_batches().then(|| match model.batch() {
            BatchShape::Any => options.batch(),
            BatchShape::Fixed(pictures) => pictures.max(1),
        });
        let profile = (options.profile || device.is_gpu()).then(tempfile::tempdir).transpose();
        let remedy = "make room there, or name another folder with TMPDIR";
        let profile = profile.map_err(Error::io(std::env::temp_dir(), "create a folder in", remedy))?;
        let engines = fixed.map(|batch| engines(model, runtime, options, batch)).transpose()?;
        // The cores are needed to decode; what is left on the processor beside a card are small operators.
        let threads = if device.is_gpu() && options.threads == 0 { 1 } else { options.threads() };
        Ok(Settings { device, threads, fixed, engines, profile })
    }

    fn providers(&self, model: &Model) -> Vec<ExecutionProviderDispatch> {
        let card = self.device.cards().first().and_then(|card| i32::try_from(*card).ok()).unwrap_or(0);
        let cuda = || ep::CUDA::default().with_device_id(card).build().error_on_failure();
        match self.device.provider() {
            Provider::Cpu => Vec::new(),
            Provider::Cuda => vec![cuda()],
            // What TensorRT does not take goes to CUDA, not to the processor.
            Provider::TensorRt => vec![self.tensorrt(model, card).build().error_on_failure(), cuda()],
        }
    }

    fn tensorrt(&self, model: &Model, card: i32) -> ep::TensorRT {
        let mut provider = ep::TensorRT::default()
            .with_device_id(card)
            .with_fp16(model.precision() == Precision::F16)
            .with_bf16(model.precision() == Precision::Bf16);
        if let Some(engines) = self.engines.as_ref().and_then(|engines| engines.to_str()) {
            provider = provider
                .with_engine_cache(true)
                .with_engine_cache_path(engines)
                .with_timing_cache(true)
                .with_timing_cache_path(engines);
        }
        if let (BatchShape::Any, Some(batch)) = (model.batch(), self.fixed) {
            let preprocess = model.preprocess();
            let sides = (preprocess.input_height(), preprocess.input_width());
            let shape = format!("{}:{batch}x3x{}x{}", model.input().name, sides.0, sides.1);
            provider = provider
                .with_profile_min_shapes(&shape)
                .with_profile_opt_shapes(&shape)
                .with_profile_max_shapes(&shape);
        }
        provider
    }
}

/// The folder of the engines for this model in this form. An engine is of use for one library, one precision
/// and one size of batch; the card's architecture is part of the names that TensorRT's provider gives the
/// files.
fn engines(model: &Model, runtime: &Runtime, options: &BackendOptions, batch: usize) -> Result<PathBuf> {
    let bad = |expected, found| Error::bad_value("engine cache", expected, found);
    let root = options.engines.clone().or_else(default_engines).ok_or_else(|| {
        bad("a folder that is given, where neither XDG_CACHE_HOME nor HOME is set", "nothing".to_owned())
    })?;
    let id: String = model.fingerprint().id().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = root.join(format!("{id}-{batch}-ort{}", runtime.version));
    if folder.to_str().is_none() {
        let expected = "a folder whose name is UTF-8, because TensorRT is told it as text";
        return Err(bad(expected, folder.to_string_lossy().into_owned()));
    }
    let remedy = "name an engine cache that this user may write to";
    fs::create_dir_all(&folder).map_err(Error::io(&folder, "create the engine cache", remedy))?;
    Ok(folder)
}

/// The user's cache.
fn default_engines() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    Some(cache?.join("vecstore-embed/tensorrt"))
}

/// Loads the model.
pub(super) fn session(
    model: &Model,
    file: &Path,
    runtime: &Runtime,
    settings: &Settings,
) -> std::result::Result<Session, String> {
    // The errors of these carry the builder; only their text is of use here.
    let text = |e: ort::Error<SessionBuilder>| e.to_string();
    let builder = Session::builder(&runtime.environment).map_err(|e| e.to_string())?;
    let builder = builder.with_intra_threads(settings.threads).map_err(text)?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
    // Models of older exporters make hundreds of harmless warnings.
    let builder = builder.with_log_level(LogLevel::Error).map_err(text)?;
    // Threads that wait by spinning take the cores that decode the next pictures.
    let mut builder = builder.with_intra_op_spinning(false).map_err(text)?;
    if let Some(folder) = &settings.profile {
        builder = builder.with_profiling(folder.path().join("run")).map_err(text)?;
    }
    let mut builder = builder.with_execution_providers(settings.providers(model)).map_err(text)?;
    builder.commit_from_file(file).map_err(|e| e.to_string())
}

//! ONNX Runtime, loaded when the program runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef};

use super::{Backend, at_once, check_pixels, display, finish, library, padded, panic_text, vector_length};
use crate::error::{Error, Result};
use crate::model::{Model, Source};
use crate::onnx_graph::Element;

/// The library this process uses. There can be only one: neither it nor its environment can be exchanged, so the
/// first that works stays until the process ends.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

#[derive(Clone)]
struct Runtime {
    path: PathBuf,
    version: String,
    environment: Environment,
}

/// Loads the library, or gives the one that is loaded already.
///
/// Every use of `ort` comes after this: any of its calls would otherwise load a library of its own choice, and panic
/// if there is none.
fn runtime(path: &Path) -> Result<Runtime> {
    let mut loaded = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        return match path.canonicalize().is_ok_and(|path| path == runtime.path) {
            true => Ok(runtime.clone()),
            false => {
                let found =
                    format!("{} already loaded, and a process can have only one", display(&runtime.path));
                Err(library::unusable(path, found))
            }
        };
    }
    let checked = library::check(path)?;
    let start = || -> std::result::Result<Environment, String> {
        let builder = ort::init_from(&checked.path).map_err(|e| e.to_string())?;
        builder.with_name("vecstore-embed").with_telemetry(false).build().map_err(|e| e.to_string())
    };
    let environment = catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|panic| Err(panic_text(&*panic)));
    let environment =
        environment.map_err(|found| library::unusable(path, format!("one that fails: {found}")))?;
    let runtime = Runtime { path: checked.path.clone(), version: checked.version.clone(), environment };
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

struct OnnxRuntime {
    name: String,
    model: Model,
    session: Session,
    dim: usize,
}

pub(super) fn open(model: &Model, library: &Path, threads: usize) -> Result<Box<dyn Backend>> {
    let runtime = runtime(library)?;
    let name = format!("onnxruntime {} ({})", runtime.version, runtime.path.display());
    let session = session(model, &runtime, threads).map_err(|found| {
        let remedy = "export it again, or with an older operator set";
        model.unusable(format!("a model that ONNX Runtime {} can load", runtime.version), found, remedy)
    })?;
    let mut backend = OnnxRuntime { name, model: model.clone(), session, dim: 0 };
    // One run tells the length of the vectors, and whether it runs at all.
    let count = at_once(model, 1);
    let blank = vec![0.0; model.preprocess().tensor_len().saturating_mul(count)];
    let (shape, _) = backend.run(count, &blank)?;
    backend.dim = vector_length(model, count, &shape)?;
    Ok(Box::new(backend))
}

fn session(model: &Model, runtime: &Runtime, threads: usize) -> std::result::Result<Session, String> {
    // The errors of these carry the builder; only their text is of use here.
    let text = |e: ort::Error<SessionBuilder>| e.to_string();
    let builder = Session::builder(&runtime.environment).map_err(|e| e.to_string())?;
    let builder = builder.with_intra_threads(threads).map_err(text)?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
    // Models of older exporters make hundreds of harmless warnings.
    let builder = builder.with_log_level(LogLevel::Error).map_err(text)?;
    // Threads that wait by spinning take the cores that decode the next pictures.
    let mut builder = builder.with_intra_op_spinning(false).map_err(text)?;
    match model.source() {
        Source::Builtin(bytes) => builder.commit_from_memory(bytes),
        Source::File(path) => builder.commit_from_file(path),
    }
    .map_err(|e| e.to_string())
}

/// Shape and numbers of an output, whatever of the three it is made of.
fn numbers(output: &DynValue) -> std::result::Result<(Vec<usize>, Vec<f32>), ort::Error> {
    let sides = |shape: &[i64]| shape.iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
    match output.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            let (shape, numbers) = output.try_extract_tensor::<f16>()?;
            Ok((sides(shape), numbers.to_f32_vec()))
        }
        Some(TensorElementType::Bfloat16) => {
            let (shape, numbers) = output.try_extract_tensor::<bf16>()?;
            Ok((sides(shape), numbers.to_f32_vec()))
        }
        _ => {
            let (shape, numbers) = output.try_extract_tensor::<f32>()?;
            Ok((sides(shape), numbers.to_vec()))
        }
    }
}

impl OnnxRuntime {
    fn run(&mut self, batch: usize, pixels: &[f32]) -> Result<(Vec<usize>, Vec<f32>)> {
        let preprocess = self.model.preprocess();
        let shape = [batch, 3, preprocess.input_height() as usize, preprocess.input_width() as usize];
        let (input, output) = (self.model.input(), self.model.output());
        let mut run = || -> std::result::Result<_, ort::Error> {
            // Only for graphs that want them so. They are written here, and kept until the run has ended.
            let (mut halves, mut brains): (Vec<f16>, Vec<bf16>) = (Vec::new(), Vec::new());
            let tensor: SessionInputValue<'_> = match self.model.element() {
                Element::F16 => {
                    halves.resize(pixels.len(), f16::ZERO);
                    halves.convert_from_f32_slice(pixels);
                    TensorRef::<f16>::from_array_view((shape.as_slice(), &halves[..]))?.into()
                }
                Element::BF16 => {
                    brains.resize(pixels.len(), bf16::ZERO);
                    brains.convert_from_f32_slice(pixels);
                    TensorRef::<bf16>::from_array_view((shape.as_slice(), &brains[..]))?.into()
                }
                Element::F32 | Element::Other => {
                    TensorRef::<f32>::from_array_view((shape.as_slice(), pixels))?.into()
                }
            };
            let inputs: Vec<(&str, SessionInputValue<'_>)> = vec![(input, tensor)];
            let outputs = self.session.run(inputs)?;
            let Some(output) = outputs.get(output) else {
                return Err(ort::Error::new(format!("the model gave no output {output}")));
            };
            numbers(output)
        };
        run().map_err(|e| Error::Inference {
            backend: self.name.clone(),
            model: self.model.name().to_owned(),
            found: e.to_string(),
        })
    }
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn preferred_batch(&self) -> usize {
        32
    }

    fn embed(&mut self, batch: usize, pixels: &[f32]) -> Result<Vec<f32>> {
        check_pixels(&self.model, batch, pixels)?;
        let at_once = at_once(&self.model, batch);
        let picture_len = self.model.preprocess().tensor_len();
        let mut vectors = Vec::with_capacity(batch * self.dim);
        for pixels in pixels.chunks(at_once * picture_len) {
            let count = pixels.len() / picture_len;
            let (shape, numbers) = self.run(at_once, &padded(pixels, at_once * picture_len))?;
            if shape != [at_once, self.dim] {
                return Err(Error::Inference {
                    backend: self.name.clone(),
                    model: self.model.name().to_owned(),
                    found: format!("the output of {at_once} pictures became {shape:?}"),
                });
            }
            vectors.extend(numbers.into_iter().take(count * self.dim));
        }
        finish(&self.model, &mut vectors, self.dim);
        Ok(vectors)
    }
}

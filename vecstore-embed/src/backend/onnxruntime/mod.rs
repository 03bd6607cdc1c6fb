//! ONNX Runtime, loaded when the program runs.

mod library;
mod session;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use half::{bf16, f16};
use ort::environment::Environment;
use ort::ep::ExecutionProvider;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef};
use parking_lot::Mutex;

use self::library::find;
pub(super) use self::library::none_found;
#[cfg(not(feature = "tract"))]
pub(super) use self::library::searched;
use self::session::{Settings, session};
use super::device::{Device, Provider};
pub(super) use super::nvidia::driver;
use super::nvidia::libraries as provider;
use super::placement::Placement;
use super::{
    BackendOptions, Batch, Encoder, Library, LoadedLibrary, Output, Signature, at_once, blank, display,
    panic_text, vector_length,
};
use crate::base::{Error, Result};
use crate::model::{BatchShape, Model};
use crate::tensor::{Element, Number, Tensor, TensorSpec, View, for_element};

/// The library this process uses. There can be only one: neither it nor its environment can be exchanged, so
/// the first that works stays until the process ends.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// A library of ONNX Runtime that is loaded.
#[derive(Clone)]
struct Runtime {
    path: PathBuf,
    version: String,
    environment: Environment,
}

impl Runtime {
    /// The providers that the library was built with, of those that are of use here.
    fn providers(&self) -> Vec<Provider> {
        let has = |provider: &Provider| match provider {
            Provider::Cpu => true,
            Provider::Cuda => ort::ep::CUDA::is_available().unwrap_or(false),
            Provider::TensorRt => ort::ep::TensorRT::is_available().unwrap_or(false),
        };
        [Provider::TensorRt, Provider::Cuda, Provider::Cpu].into_iter().filter(has).collect()
    }
}

fn in_use() -> Option<Runtime> {
    RUNTIME.lock().clone()
}

/// The library that this process uses, if it has come to that: path, version, what it computes on.
pub(super) fn loaded() -> Option<LoadedLibrary> {
    in_use().map(|runtime| {
        let providers = runtime.providers();
        LoadedLibrary { path: runtime.path, version: runtime.version, providers }
    })
}

/// The libraries that would be tried, in order.
pub(super) fn libraries(options: &BackendOptions) -> Vec<Library> {
    let paths = options.named_library().map_or_else(find, |named| vec![named]);
    let look = |path: PathBuf| {
        let version = library::check(&path).map(|checked| checked.version).map_err(|error| match error {
            Error::RuntimeLibrary { found, .. } => found,
            other => other.to_string(),
        });
        Library { built_for: provider::beside(&path), path, version }
    };
    paths.into_iter().map(look).collect()
}

/// Opens the model with the library that was named, or with the first that works of those in the usual
/// places; `None` if there is no such library.
pub(super) fn open_first(
    model: &Model,
    file: &Path,
    options: &BackendOptions,
) -> Result<Option<Box<dyn Encoder>>> {
    if let Some(library) = options.named_library() {
        return open(model, file, &library, options).map(Some);
    }
    let mut without_device = None;
    // A process has one library: once one is in use, the others have been tried.
    let libraries = in_use().map_or_else(find, |runtime| vec![runtime.path]);
    for library in &libraries {
        match open(model, file, library, options) {
            Ok(backend) => return Ok(Some(backend)),
            // The library is no use. What else fails (the model, most likely) is not its fault.
            Err(unusable @ Error::RuntimeLibrary { .. }) => log::warn!("{unusable}"),
            Err(unusable @ Error::Device { .. }) => {
                log::info!("{unusable}");
                without_device.get_or_insert(unusable);
            }
            Err(other) => return Err(other),
        }
    }
    without_device.map_or(Ok(None), Err)
}

/// Loads the library, or gives the one that is loaded already, once it has everything that `device` needs.
///
/// Every use of `ort` comes after this: any of its calls would otherwise load a library of its own choice,
/// and panic if there is none.
fn runtime(path: &Path, device: &Device) -> Result<Runtime> {
    let mut loaded = RUNTIME.lock();
    if let Some(runtime) = &*loaded {
        if path.canonicalize().is_ok_and(|path| path == runtime.path) {
            provider::check(&runtime.path, device)?;
            return Ok(runtime.clone());
        }
        let found = format!("{} already loaded, and a process can have only one", display(&runtime.path));
        return Err(library::unusable(path, found));
    }
    let checked = library::check(path)?;
    provider::check(&checked.path, device)?;
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
    signature: Signature,
    /// Pictures that the session is always given, however few there are.
    fixed: Option<usize>,
    placement: Option<Placement>,
    device: Device,
}

/// Opens a session on the device of `options`, which is one card or the processor.
fn open(model: &Model, file: &Path, library: &Path, options: &BackendOptions) -> Result<Box<dyn Encoder>> {
    let device = &options.device;
    let runtime = runtime(library, device)?;
    if !runtime.providers().contains(&device.provider()) {
        let found = format!("a build without the {}", device.provider().name());
        let remedy = "install onnxruntime-gpu, and name its library";
        return Err(provider::unusable(device, &runtime.path, found, remedy));
    }
    let settings = Settings::new(model, &runtime, options)?;
    let failed = |found: String| {
        let remedy = provider::remedy_for(&found);
        provider::unusable(device, &runtime.path, format!("{}: {found}", model.name()), remedy)
    };
    let opened = session(model, file, &runtime, &settings).map_err(|found| match device.is_gpu() {
        true => failed(found),
        false => {
            let remedy = "export it again, or with an older operator set";
            model.unusable(format!("a model that ONNX Runtime {} can load", runtime.version), found, remedy)
        }
    })?;
    let mut backend = OnnxRuntime {
        name: format!("onnxruntime {} ({})", runtime.version, runtime.path.display()),
        model: model.clone(),
        session: opened,
        signature: Signature { inputs: vec![model.input()], outputs: Vec::new() },
        fixed: settings.fixed,
        placement: None,
        device: device.clone(),
    };
    // One run tells the length of the vectors, and whether it runs at all.
    let count = backend.at_once(1);
    let blank = blank(&backend.signature.inputs, count);
    let shapes: Vec<(&[usize], View<'_>)> =
        blank.iter().map(|(shape, tensor)| (&shape[..], tensor.view())).collect();
    let (shape, _) = backend.call(count, &shapes).map_err(|error| match error {
        Error::Inference { found, .. } if device.is_gpu() => failed(found),
        other => other,
    })?;
    let dim = vector_length(model, count, &shape)?;
    backend.signature.outputs = vec![TensorSpec::new(model.output(), Element::F32, &[dim])];
    if settings.profile.is_some() {
        let profile = backend.session.end_profiling().map_err(|e| e.to_string());
        let placement = profile.and_then(|profile| Placement::read(Path::new(&profile)));
        backend.placed(&runtime, placement)?;
    }
    backend.describe(&settings);
    Ok(Box::new(backend))
}

/// Shape and numbers of an output, whatever of the three it is made of.
fn numbers(output: &DynValue) -> std::result::Result<(Vec<usize>, Vec<f32>), ort::Error> {
    match output.dtype().tensor_type() {
        Some(TensorElementType::Float16) => in_f32::<f16>(output),
        Some(TensorElementType::Bfloat16) => in_f32::<bf16>(output),
        _ => in_f32::<f32>(output),
    }
}

fn in_f32<T: Number + PrimitiveTensorElementType>(
    output: &DynValue,
) -> std::result::Result<(Vec<usize>, Vec<f32>), ort::Error> {
    let (shape, numbers) = output.try_extract_tensor::<T>()?;
    let shape = shape.iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
    Ok((shape, View::new(numbers).to_f32().into_owned()))
}

impl OnnxRuntime {
    /// Pictures that the session is given in one call, where there are `batch`.
    fn at_once(&self, batch: usize) -> usize {
        match (self.model.batch(), self.fixed) {
            (BatchShape::Any, Some(fixed)) => fixed,
            _ => at_once(&self.model, batch),
        }
    }

    /// Remembers where the operators went. Providers that took none of them are no device: everything would
    /// be computed on the processor.
    fn placed(&mut self, runtime: &Runtime, placement: std::result::Result<Placement, String>) -> Result<()> {
        match placement {
            Ok(placement) if self.device.is_gpu() && placement.on_gpu() == 0 => {
                let found = format!("a provider that took none of the operators of {}", self.model.name());
                let remedy = "export the model with other operators, or compute on the device cpu";
                return Err(provider::unusable(&self.device, &runtime.path, found, remedy));
            }
            Ok(placement) => self.placement = Some(placement),
            Err(error) => {
                log::warn!("where the operators of {} went cannot be told: {error}", self.model.name());
            }
        }
        Ok(())
    }

    fn failed(&self, found: String) -> Error {
        Error::Inference { backend: self.name.clone(), model: self.model.name().to_owned(), found }
    }

    /// Adds to the name what is of interest about a device.
    fn describe(&mut self, settings: &Settings) {
        if !self.device.is_gpu() {
            return;
        }
        self.name += &format!(" on {}", self.device);
        if let Some(placement) = &self.placement {
            let (there, here) = (placement.on_gpu(), placement.of(Provider::Cpu));
            self.name += &format!(", {there} operators there and {here} on the processor");
        }
        if let Some(engines) = &settings.engines {
            self.name +=
                &format!(", {} precision, engines kept in {}", self.model.precision(), engines.display());
        }
    }

    /// One call of the session, with as many items as it takes: the shape of one and the numbers, for each
    /// input.
    fn call(&mut self, items: usize, inputs: &[(&[usize], View<'_>)]) -> Result<(Vec<usize>, Vec<f32>)> {
        let OnnxRuntime { model, session, signature, .. } = self;
        let mut run = || -> std::result::Result<_, ort::Error> {
            let mut named = Vec::with_capacity(inputs.len());
            for (spec, (shape, numbers)) in signature.inputs.iter().zip(inputs) {
                let shape: Vec<usize> = [items].iter().chain(*shape).copied().collect();
                named.push((spec.name.as_str(), value(shape, *numbers)?));
            }
            let outputs = session.run(named)?;
            let Some(output) = outputs.get(model.output()) else {
                return Err(ort::Error::new(format!("the model gave no output {}", model.output())));
            };
            numbers(output)
        };
        run().map_err(|e| e.to_string()).map_err(|found| self.failed(found))
    }
}

/// The numbers of an input, where they are, as ONNX Runtime takes them.
fn value(shape: Vec<usize>, numbers: View<'_>) -> std::result::Result<SessionInputValue<'_>, ort::Error> {
    for_element!(numbers.element(), T => {
        let numbers = numbers.as_slice::<T>().unwrap_or_default();
        Ok(TensorRef::from_array_view((shape, numbers))?.into())
    })
}

impl Encoder for OnnxRuntime {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        batch.check(&self.signature)?;
        let (at_once, dim) = (self.at_once(batch.items), self.signature.dim());
        let mut vectors = Vec::with_capacity(batch.items * dim);
        for start in (0..batch.items).step_by(at_once) {
            let part = batch.part(start, batch.items.min(start + at_once));
            let mut rooms: Vec<Option<Tensor>> = part.inputs.iter().map(|_| None).collect();
            let full: Vec<(&[usize], View<'_>)> = part
                .inputs
                .iter()
                .zip(&mut rooms)
                .map(|(input, room)| {
                    let length = input.shape.iter().product::<usize>() * at_once;
                    (input.shape, input.numbers.padded(length, room))
                })
                .collect();
            let (shape, numbers) = self.call(at_once, &full)?;
            if shape != [at_once, dim] {
                return Err(self.failed(format!("the output of {at_once} items became {shape:?}")));
            }
            match vectors.is_empty() && part.items == at_once {
                true => vectors = numbers,
                false => vectors.extend(numbers.into_iter().take(part.items * dim)),
            }
        }
        let name = self.model.output().to_owned();
        Ok(vec![Output { name, shape: vec![batch.items, dim], numbers: vectors }])
    }

    fn memory(&self, element: Element, length: usize) -> Option<Tensor> {
        if !self.device.is_gpu() {
            return None;
        }
        // Any card copies from memory that was pinned for another.
        let card = self.device.cards().first().and_then(|card| i32::try_from(*card).ok())?;
        let place = (AllocationDevice::CUDA_PINNED, card);
        pinned(&self.session, place, element, length)
            .inspect_err(|error| {
                log::info!("no pinned memory: {error}; ordinary memory is copied from instead")
            })
            .ok()
    }

    fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }
}

/// `length` zeros in memory that the session's provider allocates. `CUDA_PINNED` is memory of the processor
/// that is never swapped out: a card reads it while the processor does something else. Pictures are prepared
/// right there, so that nothing is copied before the copy to the card.
fn pinned(
    session: &Session,
    (device, number): (AllocationDevice<'_>, i32),
    element: Element,
    length: usize,
) -> std::result::Result<Tensor, ort::Error> {
    let info = MemoryInfo::new(device, number, AllocatorType::Device, MemoryType::CPUInput)?;
    let allocator = Allocator::new(session, info)?;
    for_element!(element, T => held::<T>(&allocator, length))
}

fn held<T: Number + PrimitiveTensorElementType + fmt::Debug + Send + Sync + 'static>(
    allocator: &Allocator,
    length: usize,
) -> std::result::Result<Tensor, ort::Error> {
    let mut value = ort::value::Tensor::<T>::new(allocator, [length])?;
    let (_, numbers) = value.try_extract_tensor_mut::<T>()?;
    let (first, found) = (NonNull::from(&mut *numbers).cast::<u8>(), numbers.len());
    if found != length {
        return Err(ort::Error::new(format!("room for {found} numbers instead of {length}")));
    }
    // SAFETY: the memory is the value's: so many numbers of `T`, within reach of the processor, as
    // `try_extract_tensor_mut` has found. It stays where it is until the value is dropped, and only the
    // tensor has the value from here on.
    Ok(unsafe { Tensor::in_memory_of(first, T::ELEMENT, length, Box::new(value)) })
}

#[cfg(test)]
mod tests {
    use super::super::BatchInput;
    use super::*;
    use crate::image::preprocess::PreprocessOverrides;

    /// The way to memory of a device, with that of the processor in its place.
    #[test]
    #[ignore = "needs ORT_DYLIB_PATH"]
    fn memory_of_a_provider_is_written_and_embedded_from() {
        let library = std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH names a library");
        let runtime = runtime(Path::new(&library), &Device::cpu()).unwrap();
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/plain.onnx"));
        let prepared = PreprocessOverrides {
            size: Some("8x8".parse().unwrap()),
            mean: Some([0.0; 3]),
            std: Some([1.0; 3]),
            ..PreprocessOverrides::default()
        };
        let model = Model::from_file(file, &prepared, None).unwrap();
        let options = BackendOptions::default();
        let settings = Settings::new(&model, &runtime, &options).unwrap();
        let opened = session(&model, file, &runtime, &settings).unwrap();
        let length = model.preprocess().tensor_len();
        let in_place =
            |element, length| pinned(&opened, (AllocationDevice::CPU, 0), element, length).unwrap();
        let mut tensor = in_place(Element::F16, 9);
        tensor.view_mut().into_slice::<f16>().unwrap().fill(f16::from_f32(-0.25));
        assert_eq!((tensor.element(), &tensor.view().to_f32()[..]), (Element::F16, &[-0.25; 9][..]));
        assert_eq!(in_place(Element::I64, 3).view(), View::new(&[0i64; 3]));
        let mut tensor = in_place(Element::F32, 2 * length);
        assert_eq!(tensor.view(), View::new(&vec![0f32; 2 * length]));
        let gone =
            pinned(&opened, (AllocationDevice::CUDA_PINNED, 0), Element::F32, 8).unwrap_err().to_string();
        assert!(!gone.is_empty());
        // It outlives the session it came from.
        drop(opened);
        for (at, number) in tensor.view_mut().into_slice::<f32>().unwrap().iter_mut().enumerate() {
            *number = (at % 251) as f32 / 251.0;
        }
        let mut encoder = open(&model, file, Path::new(&library), &options).unwrap();
        let plain = tensor.view().to_f32().to_vec();
        let mut run = |numbers: View<'_>| {
            let input = BatchInput { name: "pixels", shape: &[3, 8, 8], numbers };
            encoder.run(&Batch { items: 2, inputs: vec![input] }).unwrap()
        };
        assert_eq!(run(tensor.view()), run(View::new(&plain)));
    }
}

//! What a card needs beside the model: a library of ONNX Runtime with a provider for it, NVIDIA's libraries
//! that the provider is linked with, a driver that is new enough, and the card.
//!
//! All of it is looked for before ONNX Runtime is asked, because it names only the first library that is
//! missing, after it has written a page to standard error, and goes on without the card when it is asked in
//! another way.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use parking_lot::Mutex;

use super::super::device::{Device, Provider};
use super::super::display;
use super::super::shared_library::SharedLibrary;
use super::driver::{self, driver};
use crate::base::{Error, Result};

#[cfg(target_os = "macos")]
const ENDING: &str = "dylib";
#[cfg(not(target_os = "macos"))]
const ENDING: &str = "so";

pub(in crate::backend) const WHEEL: &str = "\
    install one with `pip install 'onnxruntime-gpu[cuda,cudnn]'` (in an environment without the package \
    onnxruntime, whose files are called the same), and name its libonnxruntime as the library or in \
    ORT_DYLIB_PATH; or compute on the device cpu";

/// The library for convolutions. Newer providers are not linked with it, and load it when the first one
/// comes.
const CUDNN: &str = "libcudnn.so.9";

/// NVIDIA's libraries once loaded: they stay until the process ends, as ONNX Runtime's own do.
static LOADED: Mutex<BTreeMap<String, Library>> = Mutex::new(BTreeMap::new());

/// An error about a device that was asked for.
pub(in crate::backend) fn unusable(
    device: &Device,
    library: &Path,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Error {
    let words = found.into();
    // What ONNX Runtime says goes over several lines.
    let found = words.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Device { device: device.to_string(), library: library.to_owned(), found, remedy: remedy.into() }
}

/// The devices that a library was built for, going by the providers that lie beside it.
pub(in crate::backend) fn beside(library: &Path) -> Vec<Provider> {
    let library = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let has = |provider: &str| library.with_file_name(file_name(provider)).is_file();
    let optional = [(Provider::Cuda, "cuda"), (Provider::TensorRt, "tensorrt")];
    let found = optional.into_iter().filter(|(_, name)| has(name)).map(|(provider, _)| provider);
    [Provider::Cpu].into_iter().chain(found).collect()
}

fn file_name(provider: &str) -> String {
    format!("libonnxruntime_providers_{provider}.{ENDING}")
}

/// Looks whether `library`, which is an ONNX Runtime, can compute on `device`, and loads what its provider
/// needs.
///
/// # Errors
/// [`Error::Device`] with all that is missing.
pub(in crate::backend) fn check(library: &Path, device: &Device) -> Result<()> {
    let providers: &[&str] = match device.provider() {
        Provider::Cpu => return Ok(()),
        Provider::Cuda => &["shared", "cuda"],
        Provider::TensorRt => &["shared", "cuda", "tensorrt"],
    };
    let library = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let folder = library.parent().unwrap_or(Path::new("/"));
    let refuse = |found: String, remedy: String| unusable(device, &library, found, remedy);
    let mut needed: Vec<String> = Vec::new();
    for provider in providers {
        let name = file_name(provider);
        let file = folder.join(&name);
        if !file.is_file() {
            let what = match *provider {
                "tensorrt" => "is without TensorRT",
                _ => "computes on the processor alone",
            };
            return Err(refuse(format!("no {name} beside it: this build {what}"), WHEEL.to_owned()));
        }
        let remedy = "install onnxruntime-gpu again, in a place that this user may read";
        let needs = File::open(&file).and_then(SharedLibrary::read);
        let needs = needs.map_err(Error::io(file, "read the provider", remedy))?;
        let needs = needs.map(|library| library.needed).unwrap_or_default();
        needed.extend(needs.into_iter().filter(|need| !needed.contains(need)).collect::<Vec<_>>());
    }
    let cuda = cuda_of(&needed);
    needed.retain(|name| name != driver::LIBRARY);
    let optional = [CUDNN.to_owned()].into_iter().filter(|name| !needed.contains(name));
    let missing = load(optional.chain(needed.clone()).collect(), &folders(folder));
    let missing: Vec<&String> = missing.iter().filter(|name| needed.contains(name)).collect();
    if !missing.is_empty() {
        let listed: Vec<String> =
            missing.iter().map(|name| format!("{name} ({})", package(name, cuda))).collect();
        let found = format!("no {}, which its provider is linked with", listed.join(", no "));
        let remedy = format!(
            "install these packages, where that library was installed with pip with `pip install \
             'onnxruntime-gpu[cuda,cudnn]'`, or name their folder in LD_LIBRARY_PATH{}",
            if device.provider() == Provider::TensorRt { "; the device cuda needs no TensorRT" } else { "" }
        );
        return Err(refuse(found, remedy));
    }
    let driver = driver().map_err(|none| refuse(none.found, none.remedy.to_owned()))?;
    let (newest, _) = driver.cuda;
    if let Some(built_for) = cuda.filter(|cuda| *cuda > newest) {
        let (major, minor) = driver.cuda;
        let found =
            format!("a driver for CUDA {major}.{minor}, where this library was built for CUDA {built_for}");
        let remedy =
            format!("update the driver, or install an onnxruntime-gpu for CUDA {newest} (see its releases)");
        return Err(refuse(found, remedy));
    }
    let count = u32::try_from(driver.cards.len()).unwrap_or(u32::MAX);
    if let Some(card) = device.cards().iter().find(|card| **card >= count) {
        let names: Vec<String> =
            driver.cards.iter().zip(0..).map(|(card, number)| format!("{number}: {}", card.name)).collect();
        let found = match names.is_empty() {
            true => "a driver that shows no card to this process".to_owned(),
            false => format!("no card {card}, only {}", names.join(", ")),
        };
        let remedy = "cards are counted from 0, and CUDA_VISIBLE_DEVICES hides those it does not name";
        return Err(refuse(found, remedy.to_owned()));
    }
    Ok(())
}

/// What to do when a card that seemed to be there did not compute: ONNX Runtime said `found`.
pub(in crate::backend) fn remedy_for(found: &str) -> String {
    let found = found.to_ascii_lowercase();
    if found.contains("out of memory") || found.contains("memoryallocation") {
        let remedy =
            "give smaller batches or fewer lanes on the card, or end what else uses it (nvidia-smi lists it)";
        remedy.to_owned()
    } else if found.contains("cudnn") {
        format!(
            "install {CUDNN}, which it loads for convolutions (pip: nvidia-cudnn-cu13 or -cu12, as its CUDA)"
        )
    } else {
        let remedy = "examine the model and the device, and look at the card with nvidia-smi; a model that \
                      does not run there at all runs on the device cpu";
        remedy.to_owned()
    }
}

/// The release of CUDA that a provider was built for, by the library of that name which it needs.
fn cuda_of(needed: &[String]) -> Option<u32> {
    needed.iter().find_map(|name| name.strip_prefix("libcudart.so.")?.split('.').next()?.parse().ok())
}

/// Which package has a library: pip's and that of NVIDIA's repositories for apt.
fn package(name: &str, cuda: Option<u32>) -> String {
    let cuda = cuda.unwrap_or(13);
    // From CUDA 13 on, the names of NVIDIA's wheels do without it.
    let wheel = |name: &str| if cuda < 13 { format!("{name}-cu{cuda}") } else { name.to_owned() };
    let (stem, release) = name.split_once(".so.").unwrap_or((name, ""));
    let release = release.split('.').next().unwrap_or_default();
    let tensorrt = format!("tensorrt-cu{cuda}=={release}.*");
    let (pip, apt) = match stem {
        "libcudart" => (wheel("nvidia-cuda-runtime"), format!("cuda-cudart-{cuda}-*")),
        "libcublas" | "libcublasLt" => (wheel("nvidia-cublas"), format!("libcublas-{cuda}-*")),
        "libcurand" => (wheel("nvidia-curand"), format!("libcurand-{cuda}-*")),
        "libcufft" => (wheel("nvidia-cufft"), format!("libcufft-{cuda}-*")),
        "libnvrtc" => (wheel("nvidia-cuda-nvrtc"), format!("cuda-nvrtc-{cuda}-*")),
        "libcudnn" => (format!("nvidia-cudnn-cu{cuda}"), format!("libcudnn9-cuda-{cuda}")),
        "libnvinfer" | "libnvinfer_plugin" => (tensorrt, format!("libnvinfer{release}")),
        "libnvonnxparser" => (tensorrt, format!("libnvonnxparsers{release}")),
        _ => return "of the system".to_owned(),
    };
    format!("pip: {pip}, apt: {apt}")
}

/// Folders that NVIDIA's libraries are in where nothing tells the system: beside ONNX Runtime, in the
/// packages that pip installs beside it, and where CUDA's own installers put them.
fn folders(beside: &Path) -> Vec<PathBuf> {
    let inside = |folder: PathBuf| -> Vec<PathBuf> {
        let entries = folder.read_dir().into_iter().flatten();
        let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        found.sort();
        found
    };
    let mut folders = vec![beside.to_owned()];
    // site-packages/onnxruntime/capi
    if let Some(packages) = beside.parent().and_then(Path::parent) {
        folders.extend(inside(packages.join("nvidia")).into_iter().map(|package| package.join("lib")));
        folders.push(packages.join("tensorrt_libs"));
    }
    let toolkits = inside(PathBuf::from("/usr/local")).into_iter().rev();
    let is_cuda =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"));
    folders.extend(toolkits.filter(is_cuda).map(|toolkit| toolkit.join("lib64")));
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Loads libraries by name, from where the system looks or from `folders`. Gives those that cannot be had.
fn load(names: Vec<String>, folders: &[PathBuf]) -> Vec<String> {
    let mut loaded = LOADED.lock();
    let mut missing = names;
    // One may need another: as long as something is found, the rest is tried again.
    loop {
        let before = missing.len();
        missing.retain(|name| {
            if loaded.contains_key(name) {
                return false;
            }
            let candidates = folders.iter().map(|folder| folder.join(name)).filter(|file| file.is_file());
            let found = std::iter::once(PathBuf::from(name)).chain(candidates).find_map(|file| {
                // SAFETY: loading runs the library's initialisers; these are the libraries that ONNX
                // Runtime's provider is linked with, and would load itself.
                unsafe { Library::open(Some(&file), RTLD_LAZY | RTLD_LOCAL) }
                    .inspect_err(|error| log::debug!("{}: {error}", display(&file)))
                    .ok()
            });
            match found {
                Some(library) => loaded.insert(name.clone(), library).is_some(),
                None => true,
            }
        });
        if missing.len() == before || missing.is_empty() {
            return missing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_those_of_the_release() {
        assert_eq!(package("libcudart.so.13", Some(13)), "pip: nvidia-cuda-runtime, apt: cuda-cudart-13-*");
        assert_eq!(package("libcublasLt.so.12", Some(12)), "pip: nvidia-cublas-cu12, apt: libcublas-12-*");
        assert_eq!(package("libcudnn.so.9", Some(13)), "pip: nvidia-cudnn-cu13, apt: libcudnn9-cuda-13");
        assert_eq!(package("libnvinfer.so.10", Some(12)), "pip: tensorrt-cu12==10.*, apt: libnvinfer10");
        assert_eq!(package("libstdc++.so.6", Some(12)), "of the system");
        assert!(remedy_for("CUDA failure 2: out of memory").contains("smaller batches"));
        assert!(remedy_for("Failed to load libcudnn.so.9").contains("nvidia-cudnn"));
        assert!(remedy_for("CUDA failure 36").contains("examine"));
        let needed = ["libc.so.6", "libcudart.so.11.0"].map(str::to_owned);
        assert_eq!(cuda_of(&needed), Some(11));
        assert_eq!(cuda_of(&needed[..1]), None);
    }
}

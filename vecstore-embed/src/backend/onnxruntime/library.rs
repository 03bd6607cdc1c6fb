//! The ONNX Runtime library on disk: where it usually is, and whether it can be loaded at all.
//!
//! All of this happens before `ort` hears of it, because there a null pointer is a panic, and because loading
//! a library that a broken download cut short ends the process with a bus error that cannot be caught.

use std::ffi::CStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use libloading::Library;
use ort::sys::OrtApiBase;

use super::super::device::Device;
use super::super::shared_library::{SharedLibrary, Unusable};
use super::{display, provider};
use crate::base::{Error, Result};

const INSTALL: &str = "\
    install one with `pip install onnxruntime` (it carries the library in onnxruntime/capi) or unpack a \
    release archive of ONNX Runtime, and name its libonnxruntime as the library or in ORT_DYLIB_PATH; or use \
    the backend tract, which needs none (built in with the feature tract)";

/// ONNX Runtime 1.x with x at least this.
pub(super) const OLDEST: u32 = ort::MINOR_VERSION;

/// An error about one library file.
pub(super) fn unusable(path: &Path, found: impl Into<String>) -> Error {
    Error::RuntimeLibrary {
        path: path.to_owned(),
        expected: format!("a shared library of ONNX Runtime 1.{OLDEST} or newer for this machine"),
        found: found.into(),
        remedy: INSTALL.to_owned(),
    }
}

/// The error when one is needed and none was found.
pub(in crate::backend) fn none_found(device: &Device) -> Error {
    let found = searched();
    match device.is_gpu() {
        true => provider::unusable(device, Path::new(FILE_NAME), found, provider::WHEEL),
        false => unusable(Path::new(FILE_NAME), found),
    }
}

/// Where none was found.
pub(in crate::backend) fn searched() -> String {
    let places: Vec<String> = places().iter().map(|place| display(place)).collect();
    format!("none that works in {}", places.join(", "))
}

/// A library that passed all checks. Keep it until `ort` has loaded it too, so that it is not unloaded in
/// between.
pub(super) struct Checked {
    pub(super) path: PathBuf,
    pub(super) version: String,
    _library: Library,
}

/// Loads the library at `path` and looks whether it is an ONNX Runtime that this program can use.
///
/// # Errors
/// [`Error::RuntimeLibrary`] for everything that is wrong with it.
pub(super) fn check(path: &Path) -> Result<Checked> {
    // Made absolute: `ort` would look for a relative path beside the executable first.
    let cannot = |e: std::io::Error| unusable(path, e.to_string());
    let path = &path.canonicalize().map_err(cannot)?;
    let metadata = path.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(unusable(path, "no regular file"));
    }
    if cfg!(target_os = "linux") {
        File::open(path).and_then(SharedLibrary::read).map_err(cannot)?.map_err(|what| match what {
            Unusable::Other => unusable(path, "a file that is no 64-bit ELF library"),
            Unusable::Short => {
                let length = metadata.len();
                unusable(path, format!("a file that ends after {length} bytes, before its last section"))
            }
        })?;
    }
    // SAFETY: loading runs the library's initialisers, which for a complete file are the ones its makers
    // wrote; that this file is to be run was decided where it was named, or installed in a system folder.
    let library = unsafe { Library::new(path) }.map_err(|e| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        unusable(path, format!("one that the system refuses to load ({e}{cause})"))
    })?;
    let version = version(&library).map_err(|found| unusable(path, found))?;
    Ok(Checked { path: path.clone(), version, _library: library })
}

/// The library's own word on its version, if it is new enough.
fn version(library: &Library) -> std::result::Result<String, String> {
    // SAFETY: the signature is the one that ONNX Runtime documents for its only entry point of that name,
    // unchanged since its first release; a library that exports the name with another meaning would have to
    // do so on purpose.
    let get_base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase") };
    let get_base = get_base.map_err(|_| "a library that is not ONNX Runtime".to_owned())?;
    // SAFETY: as above; the pointer is to a static of the library, or null.
    let base = unsafe { get_base().as_ref() }.ok_or("a library that offers no interface")?;
    // SAFETY: a function of the library that takes nothing and gives a static C string or null.
    let text = unsafe { (base.GetVersionString)() };
    if text.is_null() {
        return Err("a library without a version".to_owned());
    }
    // SAFETY: not null, and terminated, see above.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    let mut numbers = text.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if major != 1 || minor < OLDEST {
        return Err(format!("version {text}"));
    }
    // SAFETY: a function of the library that gives a pointer to a static table, or null for a version it
    // lacks.
    if unsafe { (base.GetApi)(OLDEST) }.is_null() {
        return Err(format!("version {text}, which does not offer the interface of 1.{OLDEST}"));
    }
    Ok(text)
}

#[cfg(target_os = "macos")]
const FILE_NAME: &str = "libonnxruntime.dylib";
#[cfg(not(target_os = "macos"))]
const FILE_NAME: &str = "libonnxruntime.so";

/// Libraries in the usual places, best first. They may still turn out to be unusable.
pub(super) fn find() -> Vec<PathBuf> {
    places().iter().flat_map(|place| in_folder(place)).collect()
}

/// Libraries in one folder: the plain name, then those with a version in it, newest first.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut found: Vec<(Vec<u64>, PathBuf)> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((version_in_name(&name)?, folder.join(name))))
        .collect();
    found.sort_by(|(a, _), (b, _)| (b.is_empty(), b).cmp(&(a.is_empty(), a)));
    found.into_iter().map(|(_, path)| path).collect()
}

/// `[]` for the plain name, `[1, 31, 1]` for `libonnxruntime.so.1.31.1` and `libonnxruntime.1.31.1.dylib`,
/// `None` for any other file.
fn version_in_name(name: &str) -> Option<Vec<u64>> {
    let (stem, ending) = FILE_NAME.split_once('.')?;
    let rest = name.strip_prefix(stem)?;
    let mut numbers = rest.split('.').skip(1).filter(|part| *part != ending).map(|part| part.parse().ok());
    let is_library = rest.starts_with('.') && rest.split('.').any(|part| part == ending);
    if is_library { numbers.by_ref().collect() } else { None }
}

/// Folders where installers put the library, the most particular first.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.extend([folder.to_owned(), folder.join("../lib")]);
    }
    let search_path = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    if let Some(paths) = std::env::var_os(search_path) {
        places.extend(std::env::split_paths(&paths).filter(|path| path.is_absolute()));
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let environments = [variable("VIRTUAL_ENV"), variable("CONDA_PREFIX")];
    let home = variable("HOME").map(|home| home.join(".local"));
    let system = ["/usr/local", "/usr", "/opt/onnxruntime", "/opt/homebrew"].map(|p| Some(PathBuf::from(p)));
    for root in environments.into_iter().chain([home]).chain(system).flatten() {
        let library = root.join("lib");
        places.extend(python_packages(&library));
        places.push(library.join(format!("{}-linux-gnu", std::env::consts::ARCH)));
        places.push(root.join("lib64"));
        places.push(library);
    }
    places.retain(|place| place.is_dir());
    places
}

/// The folder of the `onnxruntime` package of each Python under `library`, newest Python first.
fn python_packages(library: &Path) -> Vec<PathBuf> {
    let Ok(entries) = library.read_dir() else { return Vec::new() };
    let minor =
        |name: &str| name.strip_prefix("python3").map(|v| v.trim_start_matches('.').parse().unwrap_or(0u32));
    let mut pythons: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((minor(&name)?, library.join(name))))
        .collect();
    pythons.sort_by(|a, b| b.cmp(a));
    let packages = |(_, python): (u32, PathBuf)| {
        ["site-packages", "dist-packages"].map(|folder| python.join(folder).join("onnxruntime/capi"))
    };
    pythons.into_iter().flat_map(packages).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries() {
        assert_eq!(version_in_name("libonnxruntime.so"), Some(vec![]));
        assert_eq!(version_in_name("libonnxruntime.so.1.31.1"), Some(vec![1, 31, 1]));
        assert_eq!(version_in_name("libonnxruntime_providers_shared.so"), None);
        assert_eq!(version_in_name("libonnxruntime.so.txt"), None);
        assert_eq!(version_in_name("libonnxruntime.a"), None);
    }

    #[test]
    fn the_plain_name_comes_first_and_then_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime.so", "libother.so"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = in_folder(folder.path());
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["libonnxruntime.so", "libonnxruntime.so.1.31.1", "libonnxruntime.so.1.9.0"]);
    }
}

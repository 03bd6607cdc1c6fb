//! What stands in place of ONNX Runtime in a program without the feature `onnxruntime`.

use std::path::{Path, PathBuf};

use super::card::{Driver, NoDriver};
use super::device::Device;
use super::{BackendOptions, Encoder, Library, LoadedLibrary};
use crate::base::{Error, Result};
use crate::model::Model;

const WITHOUT: &str = "a program that was built without the feature onnxruntime";

const REBUILD: &str = "build it with the feature onnxruntime";

pub(super) fn libraries(_options: &BackendOptions) -> Vec<Library> {
    Vec::new()
}

pub(super) fn loaded() -> Option<LoadedLibrary> {
    None
}

pub(super) fn driver() -> std::result::Result<Driver, NoDriver> {
    Err(NoDriver { found: WITHOUT.to_owned(), remedy: REBUILD })
}

/// A library that was named has to work, so it is an error here.
pub(super) fn open_first(
    _model: &Model,
    _file: &Path,
    options: &BackendOptions,
) -> Result<Option<Box<dyn Encoder>>> {
    match options.named_library() {
        Some(_) => Err(none_found(&options.device)),
        None => Ok(None),
    }
}

pub(super) fn none_found(device: &Device) -> Error {
    let (library, remedy) = (PathBuf::from("ONNX Runtime"), REBUILD.to_owned());
    match device.is_gpu() {
        true => Error::Device { device: device.to_string(), library, found: WITHOUT.to_owned(), remedy },
        false => Error::RuntimeLibrary {
            path: library,
            expected: "a program that can load it".to_owned(),
            found: WITHOUT.to_owned(),
            remedy,
        },
    }
}

pub(super) fn searched() -> String {
    WITHOUT.to_owned()
}

//! What an ONNX file declares about itself: its inputs, its outputs, and the files its weights lie in.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use prost::Message as _;

use super::proto::{self, GraphProto, ModelProto, TensorProto, ValueInfoProto};
use crate::base::{Error, Result};
use crate::tensor::Element;

/// The declarations of one model.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Inputs that a caller has to give: those that are not weights.
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    /// Files beside the model that hold weights, as the model names them, sorted.
    pub(crate) weight_files: Vec<PathBuf>,
}

/// One input or output.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// `None` for what pixels and vectors do not come in.
    pub(crate) element: Option<Element>,
    /// The declared length of each dimension, `None` where it is left open; `None` for the whole if no shape
    /// is given.
    pub(crate) dims: Option<Vec<Option<u64>>>,
}

impl Port {
    fn new(info: &ValueInfoProto) -> Self {
        let tensor = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        Port {
            name: info.name.clone(),
            element: match tensor.map(|tensor| tensor.elem_type) {
                Some(proto::FLOAT) => Some(Element::F32),
                Some(proto::FLOAT16) => Some(Element::F16),
                Some(proto::BFLOAT16) => Some(Element::Bf16),
                _ => None,
            },
            dims: tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
                shape.dim.iter().map(|dim| dim.dim_value.and_then(|length| length.try_into().ok())).collect()
            }),
        }
    }

    /// The number of dimensions, if it is declared.
    pub(crate) fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }
}

/// Name and shape, as in `embeds [N, 512]`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(dims) = &self.dims else { return write!(f, "{} of undeclared shape", self.name) };
        let dims: Vec<String> =
            dims.iter().map(|dim| dim.map_or("N".to_owned(), |d| d.to_string())).collect();
        write!(f, "{} [{}]", self.name, dims.join(", "))?;
        f.write_str(match self.element {
            Some(Element::F32) => "",
            Some(Element::F16) => " of f16",
            Some(Element::Bf16) => " of bf16",
            _ => " of something that is no f32, f16 or bf16",
        })
    }
}

/// Reads the declarations of the model `name`, whose file has these bytes.
///
/// # Errors
/// [`Error::Model`] if this is not an ONNX file, or its weights lie outside its folder.
pub(crate) fn declared(name: &str, bytes: &[u8]) -> Result<Declared> {
    let not_onnx = |found: String| Error::Model {
        model: name.to_owned(),
        expected: "an ONNX model".to_owned(),
        found,
        remedy: "export the model to ONNX".to_owned(),
    };
    let model = ModelProto::decode(bytes).map_err(|e| not_onnx(format!("bytes that are none ({e})")))?;
    let graph = model.graph.ok_or_else(|| not_onnx("a file without a graph".to_owned()))?;

    let weights: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut locations = BTreeSet::new();
    collect_locations(&graph, &mut locations);
    let weight_files =
        locations.into_iter().map(|location| inside(name, &location)).collect::<Result<_>>()?;
    Ok(Declared {
        inputs: graph.input.iter().filter(|input| !weights.contains(&*input.name)).map(Port::new).collect(),
        outputs: graph.output.iter().map(Port::new).collect(),
        weight_files,
    })
}

/// Weights may lie in files beside the model, and tensors anywhere in it, in nested graphs too.
fn collect_locations(graph: &GraphProto, into: &mut BTreeSet<String>) {
    let mut look = |tensor: &TensorProto| {
        if tensor.data_location == proto::EXTERNAL {
            let location = tensor.external_data.iter().find(|entry| entry.key == "location");
            into.extend(location.map(|entry| entry.value.clone()));
        }
    };
    graph.initializer.iter().for_each(&mut look);
    let attributes = || graph.node.iter().flat_map(|node| &node.attribute);
    for attribute in attributes() {
        attribute.t.iter().chain(&attribute.tensors).for_each(&mut look);
    }
    for inner in attributes().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
        collect_locations(inner, into);
    }
}

/// A model says where its weights are; it does not get to name any file of the machine.
fn inside(model: &str, location: &str) -> Result<PathBuf> {
    let path = Path::new(location);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if stays && !location.is_empty() {
        return Ok(path.to_owned());
    }
    Err(Error::Model {
        model: model.to_owned(),
        expected: "weights in files beside the model".to_owned(),
        found: format!("weights in {location:?}"),
        remedy: "export the model again, with its weights in its own folder".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_named_as_such() {
        assert!(
            declared("x", b"Dear diary").unwrap_err().to_string().contains("model x: expected an ONNX model")
        );
        assert!(declared("x", b"").unwrap_err().to_string().contains("without a graph"));
    }

    #[test]
    fn weights_stay_in_the_folder() {
        assert_eq!(inside("m", "weights/a.bin").unwrap(), Path::new("weights/a.bin"));
        for location in ["/etc/passwd", "../a.bin", "a/../../b", ""] {
            assert!(inside("m", location).is_err(), "{location:?}");
        }
    }
}

//! Just enough protobuf to write an ONNX file.
//!
//! ONNX is a protobuf message: a sequence of fields, each a number, a wire type and a value. Two wire types
//! occur here: variable-length integers (0), and lengths with as many bytes (2). The field numbers are those
//! of `onnx.proto`; written is what a graph of plain operators over f32 tensors needs.

/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// `AttributeProto.AttributeType`.
const ATTRIBUTE_INT: u64 = 2;
const ATTRIBUTE_INTS: u64 = 7;

/// One protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    fn each<T>(self, items: impl IntoIterator<Item = T>, add: impl FnMut(Self, T) -> Self) -> Self {
        items.into_iter().fold(self, add)
    }
}

/// An attribute of a node.
pub(crate) enum Attribute<'a> {
    Int(&'a str, u64),
    Ints(&'a str, &'a [u64]),
}

impl Attribute<'_> {
    fn message(&self) -> Message {
        match self {
            Attribute::Int(name, value) => {
                Message::default().text(1, name).number(3, *value).number(20, ATTRIBUTE_INT)
            }
            Attribute::Ints(name, values) => Message::default()
                .text(1, name)
                .each(values.iter(), |m, value| m.number(8, *value))
                .number(20, ATTRIBUTE_INTS),
        }
    }
}

/// A dimension of an input or output.
pub(crate) enum Dim<'a> {
    /// This many.
    Fixed(u64),
    /// As many as there are, under this name.
    Free(&'a str),
}

/// A graph under construction. Nodes have to be added after those whose outputs they read.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Message>,
    constants: Vec<Constant>,
}

struct Constant {
    name: String,
    dims: Vec<u64>,
    kind: u64,
    raw: Vec<u8>,
}

impl Constant {
    fn message(&self) -> Message {
        Message::default()
            .each(&self.dims, |m, dim| m.number(1, *dim))
            .number(2, self.kind)
            .text(8, &self.name)
            .bytes(9, &self.raw)
    }
}

impl Graph {
    /// Adds a node with one output, and gives the output's name back.
    pub(crate) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[Attribute],
    ) -> String {
        let node = Message::default()
            .each(inputs, |m, input| m.text(1, input))
            .text(2, output)
            .text(4, op)
            .each(attributes, |m, attribute| m.message(5, attribute.message()));
        self.nodes.push(node);
        output.to_owned()
    }

    /// Adds a constant tensor of f32 and gives its name: the one it has already, if the same was added
    /// before.
    pub(crate) fn floats(&mut self, name: &str, dims: &[u64], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, dims, FLOAT, raw)
    }

    /// Adds a constant list of i64, likewise.
    pub(crate) fn ints(&mut self, name: &str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, &[values.len() as u64], INT64, raw)
    }

    fn constant(&mut self, name: &str, dims: &[u64], kind: u64, raw: Vec<u8>) -> String {
        if let Some(same) = self.constants.iter().find(|c| c.dims == dims && c.kind == kind && c.raw == raw) {
            return same.name.clone();
        }
        self.constants.push(Constant { name: name.to_owned(), dims: dims.to_vec(), kind, raw });
        name.to_owned()
    }

    /// The bytes of a model file with this graph, one f32 input and one f32 output, over operator set 13.
    pub(crate) fn model(self, name: &str, input: (&str, &[Dim]), output: (&str, &[Dim])) -> Vec<u8> {
        let graph = Message::default()
            .each(self.nodes, |m, node| m.message(1, node))
            .text(2, name)
            .each(&self.constants, |m, constant| m.message(5, constant.message()))
            .message(11, value_info(input))
            .message(12, value_info(output));
        let operators = Message::default().text(1, "").number(2, 13);
        let model = Message::default()
            .number(1, 8) // version of the file format that goes with these operators
            .text(2, "vecstore-embed")
            .message(7, graph)
            .message(8, operators);
        model.0
    }
}

fn value_info((name, dims): (&str, &[Dim])) -> Message {
    let dimension = |dim: &Dim| match dim {
        Dim::Fixed(length) => Message::default().number(1, *length),
        Dim::Free(name) => Message::default().text(2, name),
    };
    let shape = Message::default().each(dims, |m, dim| m.message(1, dimension(dim)));
    let tensor = Message::default().number(1, FLOAT).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_protobuf_documentation() {
        assert_eq!(Message::default().number(1, 150).0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").0, b"\x12\x07testing");
        let inner = Message::default().number(1, 150);
        assert_eq!(Message::default().message(3, inner).0, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().number(20, 0).0, [0xa0, 0x01, 0x00]);
    }
}

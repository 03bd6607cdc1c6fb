//! The part of `onnx.proto` that says what a model declares.
//!
//! A message has only the fields that are read here; the decoder passes over all others, the weights among
//! them, without copying them. Names and numbers are those of ONNX's `onnx.proto3`.

use prost::Message;

/// `TensorProto.DataType`.
pub(crate) const FLOAT: i32 = 1;
pub(crate) const FLOAT16: i32 = 10;
pub(crate) const BFLOAT16: i32 = 16;

/// `TensorProto.DataLocation`.
pub(crate) const EXTERNAL: i32 = 1;

/// Messages, each with its fields: name, type, and how it is encoded.
macro_rules! messages {
    ($($name:ident { $($field:ident: $kind:ty = $($encoding:ident)+ $tag:literal,)+ })+) => {
        $(#[derive(Message)]
        pub(crate) struct $name {
            $(#[prost($($encoding,)+ tag = $tag)]
            pub(crate) $field: $kind,)+
        })+
    };
}

messages! {
    ModelProto {
        graph: Option<GraphProto> = message optional "7",
    }
    GraphProto {
        node: Vec<NodeProto> = message repeated "1",
        initializer: Vec<TensorProto> = message repeated "5",
        input: Vec<ValueInfoProto> = message repeated "11",
        output: Vec<ValueInfoProto> = message repeated "12",
    }
    NodeProto {
        attribute: Vec<AttributeProto> = message repeated "5",
    }
    AttributeProto {
        t: Option<TensorProto> = message optional "5",
        g: Option<GraphProto> = message optional "6",
        tensors: Vec<TensorProto> = message repeated "10",
        graphs: Vec<GraphProto> = message repeated "11",
    }
    TensorProto {
        name: String = string "8",
        external_data: Vec<StringStringEntryProto> = message repeated "13",
        data_location: i32 = int32 "14",
    }
    StringStringEntryProto {
        key: String = string "1",
        value: String = string "2",
    }
    ValueInfoProto {
        name: String = string "1",
        r#type: Option<TypeProto> = message optional "2",
    }
    TypeProto {
        tensor_type: Option<TensorType> = message optional "1",
    }
    TensorType {
        elem_type: i32 = int32 "1",
        shape: Option<TensorShapeProto> = message optional "2",
    }
    TensorShapeProto {
        dim: Vec<Dimension> = message repeated "1",
    }
    Dimension {
        dim_value: Option<i64> = int64 optional "1",
    }
}

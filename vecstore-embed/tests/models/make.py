"""Makes the little models in this folder. Needs the onnx package.

All take pictures of 8 x 8 and average each colour; most then multiply by `W`, 3 x 4.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
W = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], "float32")


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def save(name, nodes, inputs, outputs, weights=(), **external):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if external:
        onnx.save(model, HERE / f"{name}.onnx", save_as_external_data=True, size_threshold=0, **external)
    else:
        onnx.save(model, HERE / f"{name}.onnx")


mean = helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0)
project = helper.make_node("MatMul", ["mean", "W"], ["embeds"])
weights = [numpy_helper.from_array(W, "W")]
pixels = value("pixel_values", ["N", 3, 8, 8])
embeds = value("embeds", ["N", 4])

save("plain", [mean, project], [pixels], [embeds], weights)
(HERE / "external.bin").unlink(missing_ok=True)
save("external", [mean, project], [pixels], [embeds], weights, location="external.bin")
save("one-at-a-time", [mean, project], [value("pixel_values", [1, 3, 8, 8])], [value("embeds", [1, 4])], weights)
save("open-shapes", [mean, project], [value("pixel_values", None)], [value("embeds", None)], weights)

tokens = [
    helper.make_node("Reshape", ["pixel_values", "shape"], ["flat"]),
    helper.make_node("Transpose", ["flat"], ["last_hidden_state"], perm=[0, 2, 1]),
]
shape = [numpy_helper.from_array(np.array([0, 3, 64], "int64"), "shape")]
states = value("last_hidden_state", ["N", 64, 3])
pooled = helper.make_node("Identity", ["mean"], ["pooler_output"])
save("tokens", tokens, [pixels], [states], shape)
save("two-outputs", [*tokens, mean, pooled], [pixels], [states, value("pooler_output", ["N", 3])], shape)

ids = value("input_ids", ["N", 77], TensorProto.INT64)
save("two-inputs", [mean, project], [ids, pixels], [embeds], weights)
save("flat-input", [helper.make_node("MatMul", ["pixel_values", "W"], ["embeds"])], [value("pixel_values", ["N", 3])], [embeds], weights)
half = value("pixel_values", ["N", 3, 8, 8], TensorProto.FLOAT16)
cast = helper.make_node("Cast", ["pixel_values"], ["wide"], to=TensorProto.FLOAT)
wide = helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[2, 3], keepdims=0)
save("half", [cast, wide, project], [half], [embeds], weights)
# In and out of half precision, computed in f32 between; bf16 likewise.
for name, kind in [("half-both", TensorProto.FLOAT16), ("brain", TensorProto.BFLOAT16)]:
    narrow = helper.make_node("Cast", ["wide_embeds"], ["embeds"], to=kind)
    product = helper.make_node("MatMul", ["mean", "W"], ["wide_embeds"])
    io = [value("pixel_values", ["N", 3, 8, 8], kind)], [value("embeds", ["N", 4], kind)]
    save(name, [cast, wide, product, narrow], *io, weights)
save("batch-of-4", [mean, project], [value("pixel_values", [4, 3, 8, 8])], [value("embeds", [4, 4])], weights)
whole = helper.make_node("MatMul", ["mean", "W"], ["image_embeds"])
both = [value("pooler_output", ["N", 3]), value("image_embeds", ["N", 4])]
save("clip-like", [mean, pooled, whole], [pixels], both, weights)
first, second = (helper.make_node("Identity", ["mean"], [name]) for name in ("a", "b"))
save("unclear", [mean, first, second], [pixels], [value("a", ["N", 3]), value("b", ["N", 3])])
# What a picture becomes depends on the others of its batch, as in models that were exported in training mode.
others = helper.make_node("ReduceMean", ["mean"], ["others"], axes=[0], keepdims=1)
scaled = helper.make_node("Mul", ["others", "half"], ["scaled"])
less = helper.make_node("Sub", ["mean", "scaled"], ["less"])
leak = helper.make_node("MatMul", ["less", "W"], ["embeds"])
halves = [*weights, numpy_helper.from_array(np.array([0.5], "float32"), "half")]
save("leaky", [mean, others, scaled, less, leak], [pixels], [embeds], halves)
unknown = helper.make_node("Frobnicate", ["mean"], ["embeds"], domain="")
save("unknown-operator", [mean, unknown], [pixels], [embeds])

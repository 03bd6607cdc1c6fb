"""Makes what the benchmarks of embedding work on: `inputs.py FOLDER`. Needs numpy, pillow and onnx.

    large/   4 JPEG pictures of 12 megapixels     medium/   8 of half a megapixel     small/   16 of 224 x 224
    vit-b-32.onnx   the shape of CLIP's ViT-B/32 (86 million random weights; what it computes means nothing)
    vit-b-32-fp16.onnx   the same in half precision
    mean.onnx       the mean of each colour: a model whose cost is nothing
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


def photo(rng, width, height):
    """Clouds of all sizes in mixed colours, some soft shapes with edges, grain: it compresses about as a photograph does."""
    n = 512
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n)))
    frequency[0, 0] = 1
    spectrum = frequency ** -rng.uniform(1.3, 1.9)
    clouds = [np.fft.ifft2(spectrum * np.exp(2j * np.pi * rng.random((n, n)))).real for _ in range(3)]
    colours = np.stack([(c - c.mean()) / c.std() for c in clouds], axis=2) @ (rng.normal(0, 0.3, (3, 3)) + 0.4)
    pixels = colours * rng.uniform(15, 40) + rng.uniform(70, 180, 3)
    y, x = np.mgrid[0:n, 0:n] / n
    for _ in range(rng.integers(5, 12)):
        distance = np.hypot(x - rng.random(), (y - rng.random()) * rng.uniform(0.5, 2)) - rng.uniform(0.05, 0.25)
        inside = 1 / (1 + np.exp(np.clip(distance * n / rng.uniform(1, 6), -30, 30)))
        pixels = pixels * (1 - inside[..., None]) + rng.uniform(0, 255, 3) * inside[..., None]
    picture = Image.fromarray(pixels.clip(0, 255).astype("u1")).resize((width, height), Image.BICUBIC)
    grain = rng.normal(0, 6, (height, width, 1)).astype("i2")
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype("u1"))


class Graph:
    def __init__(self, half=False):
        self.half = half
        self.rng, self.nodes, self.weights = np.random.default_rng(7), [], []

    def constant(self, values, dtype="<f4"):
        dtype = "<f2" if self.half and dtype == "<f4" else dtype
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{len(self.weights)}"))
        return self.weights[-1].name

    def random(self, *shape):
        return self.constant(self.rng.normal(0, 0.02, shape))

    def op(self, kind, *inputs, **attributes):
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def linear(self, x, before, after):
        return self.op("Add", self.op("MatMul", x, self.random(before, after)), self.random(after))

    def norm(self, x, width):
        return self.op("LayerNormalization", x, self.constant(np.ones(width)), self.constant(np.zeros(width)), axis=-1)

    def save(self, path, y, width):
        self.nodes[-1].output[0] = "y"
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        value = lambda name, shape: helper.make_tensor_value_info(name, kind, shape)
        io = [value("x", ["N", 3, 224, 224])], [value("y", ["N", width])]
        graph = helper.make_graph(self.nodes, path.stem, *io, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def vit(path, width=768, layers=12, heads=12, patch=32, projected=512, half=False):
    g = Graph(half)
    tokens, ints = (224 // patch) ** 2 + 1, lambda *values: g.constant(values, "<i8")
    x = g.op("Conv", "x", g.random(width, 3, patch, patch), strides=[patch, patch])
    x = g.op("Transpose", g.op("Reshape", x, ints(0, width, tokens - 1)), perm=[0, 2, 1])
    zero = g.op("Mul", g.op("Slice", x, ints(0), ints(1), ints(1)), g.constant(0))
    x = g.op("Concat", g.op("Add", zero, g.random(1, 1, width)), x, axis=1)
    x = g.norm(g.op("Add", x, g.random(1, tokens, width)), width)
    split = lambda y, perm: g.op("Transpose", g.op("Reshape", y, ints(0, tokens, heads, width // heads)), perm=perm)
    for _ in range(layers):
        y = g.norm(x, width)
        q, k, v = (g.linear(y, width, width) for _ in range(3))
        q = g.op("Mul", split(q, [0, 2, 1, 3]), g.constant((width // heads) ** -0.5))
        a = g.op("Softmax", g.op("MatMul", q, split(k, [0, 2, 3, 1])), axis=-1)
        a = g.op("Transpose", g.op("MatMul", a, split(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        x = g.op("Add", x, g.linear(g.op("Reshape", a, ints(0, tokens, width)), width, width))
        y = g.linear(g.norm(x, width), width, 4 * width)
        y = g.op("Mul", y, g.op("Sigmoid", g.op("Mul", y, g.constant(1.702))))
        x = g.op("Add", x, g.linear(y, 4 * width, width))
    x = g.op("Reshape", g.op("Slice", x, ints(0), ints(1), ints(1)), ints(0, width))
    g.save(path, g.op("MatMul", g.norm(x, width), g.random(width, projected)), projected)


def mean(path):
    g = Graph()
    g.save(path, g.op("ReduceMean", "x", axes=[2, 3], keepdims=0), 3)


folder, rng = Path(sys.argv[1]), np.random.default_rng(1)
for name, count, width, height in [("large", 4, 4000, 3000), ("medium", 8, 816, 612), ("small", 16, 224, 224)]:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for at in range(count):
        photo(rng, width, height).save(folder / name / f"{at}.jpg", quality=90)
vit(folder / "vit-b-32.onnx")
vit(folder / "vit-b-32-fp16.onnx", half=True)
mean(folder / "mean.onnx")

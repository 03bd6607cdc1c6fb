"""Writes pillow-levels.txt: what Pillow makes of a generated picture, for `preprocess.rs` to agree with.

Run with Pillow 11 or 12. (From 13 on Pillow swaps its two passes for some sizes, which changes levels at hard edges;
published models were trained and measured with the older order.)
"""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width, height):
    """Hard edges, wrapping ramps and a smooth ramp; `preprocess.rs` computes the same."""
    y, x = np.mgrid[0:height, 0:width]
    red = np.where((x // 3 + y // 2) % 2 == 0, 255, 0)
    green = (x * 37 + y * 11) % 256
    blue = np.where(x * height > y * width, x * 255 // width, 255 - y * 255 // height)
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype("u1"))


def prepared(width, height, size, crop, resample):
    short, long = min(width, height), max(width, height)
    if isinstance(size, int):
        longer = int(size * long / short)
        resized = (size, longer) if width <= height else (longer, size)
    else:
        resized = (size[1], size[0])
    pixels = np.asarray(picture(width, height).resize(resized, resample))
    top, left = (resized[1] - crop[0]) // 2, (resized[0] - crop[1]) // 2
    return pixels[top : top + crop[0], left : left + crop[1]].transpose(2, 0, 1)


FILTERS = [("nearest", 0), ("lanczos3", 1), ("bilinear", 2), ("bicubic", 3), ("hamming", 5)]
CASES = [
    (61, 40, 9, (6, 6)),
    (23, 57, (8, 10), (6, 5)),
    (40, 90, 16, (12, 15)),
    (5, 7, 12, (6, 6)),
]

with open(Path(__file__).with_suffix(".txt"), "w") as out:
    for width, height, size, crop in CASES:
        for name, resample in FILTERS:
            levels = prepared(width, height, size, crop, resample).ravel()
            written = size if isinstance(size, int) else "x".join(map(str, size))
            print(f"{width}x{height}", written, "x".join(map(str, crop)), name, *levels, file=out)

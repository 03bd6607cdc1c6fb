"""Compares every segment of a store, as NumPy maps it, with the bytes that Rust sees: python3 check_segments.py PLAN

PLAN has one line per segment: path, dtype, rows, dim, and a file with the expected bytes, separated by tabs.
"""

import sys

import numpy as np

for line in open(sys.argv[1], encoding="utf-8"):
    path, dtype, rows, dim, expected = line.rstrip("\n").split("\t")
    found = np.load(path, mmap_mode="r")
    assert isinstance(found, np.memmap), f"{path}: not mapped"
    assert found.dtype == np.dtype(dtype), f"{path}: {found.dtype}, expected {dtype}"
    assert found.shape == (int(rows), int(dim)), f"{path}: {found.shape}, expected ({rows}, {dim})"
    assert found.flags.c_contiguous and found.offset == 4096, f"{path}: rows begin at byte {found.offset}"
    assert found.tobytes() == open(expected, "rb").read(), f"{path}: bits differ"
    print(f"ok {path} {found.dtype} {found.shape}")
print("numpy", np.__version__)

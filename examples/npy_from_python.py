"""Reads a vecstore store with NumPy alone and finds the nearest rows.

    python3 npy_from_python.py QUERY K SEGMENT...

QUERY is a file of little-endian float32. The segments are searched in the order given; `vecstore files DIR` names
them in commit order. Prints one line per hit, nearest first: segment number, row, cosine.
"""

import sys

try:
    import numpy as np
except ImportError:
    sys.exit(69)  # EX_UNAVAILABLE; the caller tells what to install

query = np.fromfile(sys.argv[1], dtype="<f4")
k = int(sys.argv[2])

hits = []
for number, path in enumerate(sys.argv[3:]):
    rows = np.load(path, mmap_mode="r")  # nothing is copied: pages are read as they are touched
    cosine = rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
    hits += [(-cosine[row], number, row) for row in np.argsort(-cosine, kind="stable")[:k]]

print("numpy", np.__version__)
for negative, number, row in sorted(hits)[:k]:
    print(number, row, f"{-negative:.7f}")

"""The work of `embed decode` in Python: `python.py pillow|pillow-draft|opencv|opencv-reduced FOLDER COUNT [PROCESSES]`.

COUNT pictures of FOLDER, in turn, are read, decoded, resized to a shortest edge of 224, cut to 224 x 224 and
normalised as for CLIP, in as many processes as there are cores. Prints pictures per second; starting the processes does not
count.

pillow: bicubic, every pixel. pillow-draft: decoded smaller (`draft`), at twice the size or more. opencv: INTER_AREA, the
filter of OpenCV that takes every pixel into account when it reduces. opencv-reduced: decoded at a half, a quarter or an
eighth (IMREAD_REDUCED_COLOR_*), at twice the size or more.
"""

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

EDGE = 224
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], "f4")
STD = np.array([0.26862954, 0.26130258, 0.27577711], "f4")


def sides(width, height):
    longer = EDGE * max(width, height) // min(width, height)
    return (EDGE, longer) if width <= height else (longer, EDGE)


def finish(pixels):
    top, left = (pixels.shape[0] - EDGE) // 2, (pixels.shape[1] - EDGE) // 2
    pixels = pixels[top : top + EDGE, left : left + EDGE]
    return np.ascontiguousarray(((pixels.astype("f4") / 255 - MEAN) / STD).transpose(2, 0, 1))


def pillow(path, draft=False):
    from PIL import Image

    picture = Image.open(path)
    if draft:
        picture.draft("RGB", tuple(2 * side for side in sides(*picture.size)))
    picture = picture.convert("RGB")
    return finish(np.asarray(picture.resize(sides(*picture.size), Image.BICUBIC)))


def opencv(path, reduced=False):
    import cv2

    cv2.setNumThreads(1)
    how = cv2.IMREAD_COLOR
    if reduced:
        from PIL import Image

        shorter = min(Image.open(path).size)  # reads the header alone
        for scale, flag in [(8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2)]:
            if shorter // scale >= 2 * EDGE:
                how = flag
                break
    pixels = cv2.imread(str(path), how)
    height, width = pixels.shape[:2]
    pixels = cv2.resize(pixels, sides(width, height), interpolation=cv2.INTER_AREA)
    return finish(pixels[:, :, ::-1])


WORK = {
    "pillow": pillow,
    "pillow-draft": lambda path: pillow(path, draft=True),
    "opencv": opencv,
    "opencv-reduced": lambda path: opencv(path, reduced=True),
}


def one(job):
    kind, path = job
    return WORK[kind](path).shape


def cost(pool):
    """Processor time of this process and of those of the pool, in seconds. Linux only."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = own.ru_utime + own.ru_stime
    for process in pool._pool:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


if __name__ == "__main__":
    kind, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    processes = int(sys.argv[4]) if len(sys.argv) > 4 else os.cpu_count()
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    jobs = [(kind, paths[at % len(paths)]) for at in range(count)]
    with multiprocessing.Pool(processes) as pool:
        pool.map(one, jobs[: 4 * processes], chunksize=1)
        began = time.perf_counter()
        before = cost(pool)
        for shape in pool.imap_unordered(one, jobs, chunksize=1 if count < 200 else 8):
            assert shape == (3, EDGE, EDGE), shape
        rate, spent = count / (time.perf_counter() - began), cost(pool) - before
        print(f"{kind}: {rate:.2f} pictures per second, {1000 * spent / count:.2f} ms of processor time each")

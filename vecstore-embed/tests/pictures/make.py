"""Makes the pictures in this folder that the Rust encoders cannot make. Needs Pillow 11 or newer and NumPy.

All show the same 48 x 32 pixels: `level(x, y, channel)` below, which `decode.rs` computes too.
"""

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
y, x = np.mgrid[0:32, 0:48]
RGB = np.stack([x * 5, y * 7, 255 - x * 2 - y * 3], axis=2).astype("u1")
picture = Image.fromarray(RGB)

picture.save(HERE / "progressive.jpg", quality=90, progressive=True, subsampling=0)
picture.save(HERE / "restart.jpg", quality=90, restart_marker_blocks=2, subsampling=2)
picture.convert("L").save(HERE / "grey.jpg", quality=90)
picture.convert("CMYK").save(HERE / "cmyk.jpg", quality=90, subsampling=0)
picture.save(HERE / "lossy.webp", quality=90)
other = Image.fromarray(255 - RGB)
picture.save(HERE / "animated.webp", save_all=True, append_images=[other], lossless=True)
picture.quantize(64).save(HERE / "animated.gif", save_all=True, append_images=[other.quantize(64)])
for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
    picture.save(HERE / f"{compression}.tif", compression=compression)
picture.save(HERE / "two-pages.tif", save_all=True, append_images=[other], compression="tiff_lzw")

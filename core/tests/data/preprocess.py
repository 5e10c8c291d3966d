"""Writes preprocess.bin: what Pillow makes of a picture in each case of ../preprocess.rs (`pip install pillow numpy`)."""
import pathlib

import numpy as np
from PIL import Image

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos3": Image.LANCZOS}
# width, height of the picture, width, height of the input, fit, fraction, filter
CASES = [
    (333, 201, 32, 32, "crop", 1.0, "bicubic"),
    (333, 201, 32, 32, "crop", 0.875, "bicubic"),
    (201, 333, 32, 32, "crop", 0.875, "bilinear"),
    (333, 201, 40, 24, "stretch", 1.0, "bicubic"),
    (333, 201, 24, 40, "stretch", 0.7, "lanczos3"),
    (333, 201, 32, 32, "pad", 1.0, "bicubic"),
    (201, 333, 33, 32, "pad", 0.9, "bilinear"),
    (17, 11, 32, 32, "crop", 1.0, "bicubic"),
    (64, 64, 64, 64, "stretch", 1.0, "lanczos3"),
]


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    def fold(v):
        return np.where(v % 510 > 255, 510 - v % 510, v % 510)

    return np.stack([fold(x * x // 8 + y * 5), fold(x * 3 + y * y // 16), 60 + (x // 9 + y // 7) % 4 * 40], -1).astype(np.uint8)


out = b""
for width, height, to_width, to_height, fit, fraction, name in CASES:
    image = Image.fromarray(picture(width, height))
    w, h = (min(width, height) * fraction,) * 2 if fit == "crop" else (width * fraction, height * fraction)
    box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
    if fit == "pad":
        scale = min(to_width / w, to_height / h)
        size = round(w * scale), round(h * scale)
        result = Image.new("RGB", (to_width, to_height))
        result.paste(image.resize(size, FILTERS[name], box), ((to_width - size[0]) // 2, (to_height - size[1]) // 2))
    else:
        result = image.resize((to_width, to_height), FILTERS[name], box)
    out += result.tobytes()
pathlib.Path(__file__).with_name("preprocess.bin").write_bytes(out)

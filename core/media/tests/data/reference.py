"""Writes frames.txt: time, CRC-32 and the mean luma of a 4x4 grid of every I420 picture FFmpeg decodes
(`pip install av numpy`).

usage: reference.py VIDEO... > frames.txt
"""
import pathlib
import sys
import zlib

import av
import numpy as np

for path in map(pathlib.Path, sys.argv[1:]):
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            assert frame.format.name in ("yuv420p", "yuvj420p"), frame.format
            data = b""
            for plane, (w, h) in zip(frame.planes, [(frame.width, frame.height)] + [(-(-frame.width // 2), -(-frame.height // 2))] * 2):
                rows = memoryview(plane)
                data += b"".join(rows[y * plane.line_size : y * plane.line_size + w] for y in range(h))
            ns = frame.pts * 1_000_000_000 * frame.time_base.numerator // frame.time_base.denominator
            luma = np.frombuffer(data, np.uint8, frame.width * frame.height).reshape(frame.height, frame.width)
            w, h = frame.width // 4, frame.height // 4
            grid = luma[: 4 * h, : 4 * w].reshape(4, h, 4, w).mean((1, 3)).round().astype(np.uint8)
            print(path.stem, ns, f"{zlib.crc32(data):08x}", grid.tobytes().hex())

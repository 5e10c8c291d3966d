"""Writes small.mp4: fragmented, B-frames, BT.709 full range, to be turned clockwise by a quarter (`pip install av numpy`)."""
import io
import pathlib
import struct

import av
import numpy as np

file = io.BytesIO()
options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
with av.open(file, "w", format="mp4", options=options) as output:
    stream = output.add_stream("libx264", rate=25, options={"bf": "2", "g": "8", "preset": "medium", "crf": "20", "x264-params": "scenecut=0"})
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.colorspace = 1
    stream.codec_context.color_range = 2
    y, x = np.mgrid[0:48, 0:64]
    for t in range(24):
        luma = 60 + 2 * x + 40 * ((x - 2 * t) ** 2 + (y - 24) ** 2 < 100)
        chroma = np.full((24, 32), 128)
        pixels = np.vstack([luma, chroma.reshape(12, 64) + t, chroma.reshape(12, 64) - t]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
        frame.pts = t
        output.mux(stream.encode(frame))
    output.mux(stream.encode())
data = bytearray(file.getvalue())
matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
assert struct.unpack(">9i", data[matrix : matrix + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
pathlib.Path(__file__).with_name("small.mp4").write_bytes(data)

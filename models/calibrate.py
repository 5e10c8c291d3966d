#!/usr/bin/env python3
"""Ranges of the visual encoder's activations over real frames: `calibrate.py PACK ATOM` writes reference/visual_ranges.json.

PACK is the reference pack, ATOM the command, which decodes the clips. Frames: every tenth of the three clips of the demo and of
the three held-out clips; pictures: the set `dev` of models/judged.tsv (`setup.py videos heldout pictures` fetches them).
What accuracy.py measures on is none of these.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))

import setup  # noqa: E402
import visual_encoder  # noqa: E402
import visual_qdq  # noqa: E402

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
EVERY = 10
CLIPS = ["videos/bikes.mp4", "videos/bigbuckbunny.mp4", "videos/carphone.mp4", "heldout/a.mp4", "heldout/b.mp4", "heldout/world.mp4"]


def frames(atom, clip):
    """Every tenth frame of CLIP as an RGB picture."""
    import json

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.nv12"
        told = subprocess.run([atom, "frames", str(clip), "-o", str(raw), "--json"], check=True, capture_output=True, text=True)
        facts = json.loads(told.stdout)
        width, height = facts["width"], facts["height"]
        size = width * height * 3 // 2
        data = np.memmap(raw, np.uint8, "r")
        for at in range(0, len(data) // size, EVERY):
            frame = data[at * size : (at + 1) * size]
            luma = Image.fromarray(np.ascontiguousarray(frame[: width * height].reshape(height, width)))
            chroma = frame[width * height :].reshape(height // 2, width // 2, 2)
            planes = [Image.fromarray(np.ascontiguousarray(chroma[:, :, c])).resize((width, height)) for c in (0, 1)]
            yield Image.merge("YCbCr", [luma, *planes]).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("atom", type=Path)
    given = parser.parse_args()
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    def pictures():
        for clip in CLIPS:
            yield from frames(given.atom, setup.CACHE / clip)
        for path in sorted((setup.CACHE / "pictures" / "dev").iterdir()):
            yield Image.open(path)

    class Reader(CalibrationDataReader):
        count = 0

        def __init__(self):
            self.pictures = pictures()

        def get_next(self):
            picture = next(self.pictures, None)
            if picture is None:
                return None
            Reader.count += 1
            return {"pixel_values": visual_encoder.preprocess(picture)}

    with tempfile.TemporaryDirectory() as folder:
        import onnx

        model, floats = visual_qdq.fixed(given.pack / "visual_encoder.onnx")
        plain = Path(folder) / "fixed.onnx"
        onnx.save(model, plain)
        visual_qdq.RANGES.unlink(missing_ok=True)
        kinds = sorted({node.op_type for node in model.graph.node if node.name not in floats})
        quantize_static(
            plain, Path(folder) / "quantised.onnx", Reader(), op_types_to_quantize=kinds, nodes_to_exclude=floats,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
            extra_options={"CalibStridedMinMax": None, "CalibTensorRangeSymmetric": False}, calibration_cache_path=visual_qdq.RANGES,
        )
    print(f"{Reader.count} frames and pictures: {visual_qdq.RANGES}")


if __name__ == "__main__":
    main()

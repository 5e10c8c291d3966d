#!/usr/bin/env python3
"""The reference pack's search half for NPUs: `npu.py PACK OUT` (OUT must not exist; setup.py renames it).

The visual encoder gets a quantised variant for the QNN provider; the processor keeps the fp32 form. The language decoder is left out.
A pack of its own, because on a workstation QNN is an emulator, tens of times slower than the processor itself.
"""

import argparse
import shutil
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))

import graph as g  # noqa: E402
import manifest  # noqa: E402
import numpy as np  # noqa: E402
import visual_encoder  # noqa: E402
import visual_qdq  # noqa: E402

BITS = 16
# An NPU comes to 0.9999 and more of what the processor makes of the same quantised graph; one that computes something else is far
# below. What the quantisation itself costs is in README.md.
COSINE = 0.99


def pictures():
    """Two preprocessed pictures that the encoder takes for quite different things: smooth waves, and a disc."""
    y, x = np.mgrid[0 : visual_encoder.SIZE, 0 : visual_encoder.SIZE] / visual_encoder.SIZE
    disc = np.where((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.09, 1.0, -0.8)
    return np.stack([visual_encoder.golden_input()[0], np.stack([disc * tint for tint in (1.0, 0.4, -0.6)])]).astype(np.float32)


def variant(pack, out, module):
    """The [[module.variant]] of MODULE; writes its graph and golden outputs to OUT."""
    path = visual_qdq.build(pack / module["model"]["file"], BITS, out / "visual_encoder_a16w8.onnx", out)
    session, inputs = g.session(path), {"pixel_values": pictures()}
    ports = [port["port"] for port in module["golden"]["outputs"]]
    for port, rows in zip(ports, session.run(ports, inputs)):
        same = np.stack([rows[0], rows[0]])
        cosine = float((same * rows).sum() / np.sqrt((same**2).sum() * (rows**2).sum()))
        # Or an encoder that makes the same of every picture would pass.
        if cosine > COSINE - 0.1:
            raise ValueError(f"the golden pictures are too alike: {port} twice the first has cosine {cosine:.3f}")
    return {
        "providers": ["qnn"], "model": g.file_ref(out, path), "precision": "int8", "fixed": {"batch": visual_qdq.BATCH},
        "golden": g.golden(out, session, "visual_a16w8", COSINE, inputs, ports),
    }


def build(pack, out):
    entries = tomllib.loads((pack / "pack.toml").read_text(encoding="utf-8"))
    entries["modules"] = [module for module in entries.pop("module") if module["kind"] != "language-decoder"]
    entries["tasks"] = {name: task for name, task in entries["tasks"].items() if name in ("index", "search")}
    entries["id"] += "-npu"
    entries["description"] = "The search half of the reference pack, with a quantised visual encoder for NPUs."
    del entries["captioner"]
    kept = set()
    for module in entries["modules"]:
        ports = module["golden"]["inputs"] + module["golden"]["outputs"]
        files = [module["model"], *module["data"], *(port["file"] for port in ports)]
        files += [module["tokenizer"]["file"]] if "tokenizer" in module else []
        kept |= {file["file"] for file in files}
    kept |= {path.relative_to(pack).as_posix() for path in (pack / "licences").iterdir()}
    for name in sorted(kept):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pack / name, out / name)
    visual = next(module for module in entries["modules"] if module["kind"] == "visual-encoder")
    visual["providers"], visual["policy"] = ["qnn", "cpu"], "prefer"
    visual["options"] = {"qnn": {"soc_model": 69}}
    visual["variant"] = [variant(out, out, visual)]
    (out / "pack.toml").write_text(manifest.render(entries), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists")
    build(given.pack, given.out)

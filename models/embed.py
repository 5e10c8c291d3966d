#!/usr/bin/env python3
"""A copy of a pack whose weights lie inside the .onnx files: `embed.py PACK OUT` (OUT must not exist; setup.py renames it).

It is what exporters write by default, and what `atom-bench` compares Atom's own form with: the same graphs, the same
weights, the same results, loaded as ONNX Runtime loads any such file.
"""

import argparse
import shutil
import sys
import tomllib
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))

import graph as g  # noqa: E402
import manifest  # noqa: E402


def embed(pack, out):
    entries = tomllib.loads((pack / "pack.toml").read_text(encoding="utf-8"))
    entries["modules"] = entries.pop("module")
    entries["id"] += "-embedded"
    entries["description"] = "Weights inside the .onnx files, loaded plainly. " + entries["description"]
    weights = {file["file"] for module in entries["modules"] for file in [module["model"], *module["data"]]}
    names = {path.relative_to(pack).as_posix() for path in pack.rglob("*") if path.is_file()}
    for name in names - weights - {"pack.toml"}:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pack / name, out / name)
    for module in entries["modules"]:
        path = out / module["model"]["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        # Loading reads the external weights into the graph; saving then leaves them there.
        onnx.save_model(onnx.load(pack / module["model"]["file"]), path, save_as_external_data=False)
        module["model"] = g.file_ref(out, path)
        module["data"] = []
        module["load"] = "plain"
    (out / "pack.toml").write_text(manifest.render(entries), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists")
    embed(given.pack, given.out)

#!/usr/bin/env python3
"""The reference pack with a decoder that words captions: `likeliest.py PACK OUT` (OUT must not exist; setup.py renames it).

Its captions are the likeliest of equally true sentences, not composed ones. Benchmarks and tests use it where the decoder has
to run for captions. The files are hard links to PACK's where the file system has them.
"""

import argparse
import os
import shutil
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))

import manifest  # noqa: E402


def likeliest(pack, out):
    entries = tomllib.loads((pack / "pack.toml").read_text(encoding="utf-8"))
    entries["modules"] = entries.pop("module")
    entries["id"] += "-likeliest"
    entries["description"] = "Captions worded by the decoder. " + entries["description"]
    entries["captioner"]["options"] = {"wording": "likeliest"}
    for path in pack.rglob("*"):
        name = path.relative_to(pack)
        if not path.is_file() or name.as_posix() == "pack.toml":
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, out / name)
        except OSError:
            shutil.copyfile(path, out / name)
    (out / "pack.toml").write_text(manifest.render(entries), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists")
    likeliest(given.pack, given.out)

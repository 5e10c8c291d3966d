#!/usr/bin/env python3
"""Prints the caption of every labelled photo and of twelve frames of each clip, and the answers to questions.tsv, for people to judge.

    $ATOM_CACHE/venv/bin/python models/judge.py [FOLDER]

Needs `models/setup.py test`. The pictures land in $ATOM_CACHE/judged as JPEG, to look at while reading. With FOLDER, its
photos and clips are captioned instead.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import setup

HERE = Path(__file__).resolve().parent


def main():
    folders = [Path(name) for name in sys.argv[1:]] or [setup.CACHE / "photos", setup.CACHE / "videos"]
    judged = setup.CACHE / "judged"
    judged.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for path in sorted(path for folder in folders for path in folder.iterdir()):
            if path.suffix in (".png", ".jpg", ".jpeg"):
                files.append(Path(scratch) / f"{path.stem}.ppm")
                with Image.open(path) as image:
                    image.convert("RGB").save(files[-1])
            elif path.suffix == ".mp4":
                files.append(path)
        command = ["cargo", "run", "--release", "--quiet", "-p", "atom-media", "--example", "captions", "--"]
        command += [setup.CACHE / "packs/reference", judged, "--questions", HERE / "questions.tsv", *files]
        return subprocess.run(list(map(str, command)), cwd=HERE.parent).returncode


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Prints the caption of every labelled photo and of twelve frames of each clip, and the answers to questions.tsv, for people to judge.

    $ATOM_CACHE/venv/bin/python models/judge.py [FOLDER] [--sheet FILE.jpg] [--frames N]

Needs `models/setup.py test`. The pictures land in $ATOM_CACHE/judged as JPEG, to look at while reading. With FOLDER, its
photos and clips are captioned instead; those of judged.tsv are in $ATOM_CACHE/pictures/SET after `models/setup.py pictures`.
--sheet draws all of them with their captions on one sheet.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

import setup

HERE = Path(__file__).resolve().parent


CELL, LINE, COLUMNS = 240, 14, 6


def sheet(rows, pictures, out):
    """All pictures with the captions below them; ROWS are (name, caption)."""
    high = CELL + 3 * LINE
    page = Image.new("RGB", (COLUMNS * CELL, -(-len(rows) // COLUMNS) * high), "white")
    pen = ImageDraw.Draw(page)
    for index, (name, caption) in enumerate(rows):
        x, y = index % COLUMNS * CELL, index // COLUMNS * high
        with Image.open(pictures / f"{name}.jpg") as picture:
            picture.thumbnail((CELL - 6, CELL - 6))
            page.paste(picture, (x, y))
        words = [name, caption[:38], caption[38:76]]
        for line, text in enumerate(words):
            pen.text((x, y + CELL - 4 + line * LINE), text, fill="black")
    page.save(out, quality=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--sheet", type=Path, metavar="FILE.jpg")
    parser.add_argument("--frames", type=int, metavar="N", help="of every clip (12)", default=12)
    given = parser.parse_args()
    folders = given.folders or [setup.CACHE / "photos", setup.CACHE / "videos"]
    judged = setup.CACHE / "judged"
    judged.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for path in sorted(path for folder in folders for path in folder.iterdir()):
            if path.suffix in (".png", ".jpg", ".jpeg"):
                files.append(Path(scratch) / f"{path.stem}.ppm")
                with Image.open(path) as image:
                    # Upright, as a camera's frames are.
                    ImageOps.exif_transpose(image).convert("RGB").save(files[-1])
            elif path.suffix == ".mp4":
                files.append(path)
        command = ["cargo", "run", "--release", "--quiet", "-p", "atom-grounding", "--example", "captions", "--"]
        command += [setup.CACHE / "packs/reference", judged, "--questions", HERE / "questions.tsv", "--frames", given.frames, *files]
        done = subprocess.run(list(map(str, command)), cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="")
        if given.sheet and done.returncode == 0:
            lines = [line.split("\t") for line in done.stdout.splitlines()]
            sheet([(line[0], line[2]) for line in lines if not line[1]], judged, given.sheet)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What quantising the visual encoder costs: `accuracy.py PACK [--photos DIR] [--pictures DIR]` prints a table for models/README.md.

Held out from the calibration: the labelled photographs and the sets a, b, c of models/judged.tsv. Every form runs on the
processor, where the quantised ones compute what an NPU does, to rounding.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))

import graph as g  # noqa: E402
import oracle  # noqa: E402
import visual_encoder  # noqa: E402
import visual_qdq  # noqa: E402

PORTS = ["image_embeds", "posteriors", "pooler_output"]


def features(session, files):
    """Per port, the mean over the views for every file."""
    rows = [[out.mean(axis=0) for out in session.run(PORTS, {"pixel_values": visual_encoder.preprocess(Image.open(f))})] for f in files]
    return [np.stack(column) for column in zip(*rows)]


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--photos", type=Path, default=oracle.cache() / "photos")
    parser.add_argument("--pictures", type=Path, default=oracle.cache() / "pictures")
    given = parser.parse_args()
    pack = oracle.Pack(given.pack)
    labels = json.loads((oracle.HERE / "labels.json").read_text(encoding="utf-8"))
    names = sorted(labels)
    photos = [given.photos / name for name in names]
    others = [path for part in "abc" if (given.pictures / part).is_dir() for path in sorted((given.pictures / part).iterdir())]
    queries = [(query, name) for name in names for query in labels[name]]
    template = pack.manifest["tasks"]["search"]["query_template"]
    texts = oracle.embed(pack, [template.replace("{}", query) for query, _ in queries])
    source = pack.path(pack.modules["visual-encoder"]["model"])

    def first_hits(embeds):
        units = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
        return [int(np.argmax(units @ text)) for text in texts]

    exact = features(g.session(source), photos + others)
    print(f"{len(photos)} photographs with {len(queries)} queries, {len(others)} further pictures")
    print("| form | MB | cosine to fp32: vector, least / median | posteriors | features | same best class | Recall@1 among the photographs | same first hit among all |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for form in ("fp32", "a16w8", "a8w8"):
            path = source
            if form != "fp32":
                path = visual_qdq.build(source, 16 if form == "a16w8" else 8, Path(folder) / f"{form}.onnx", folder)
            size = sum(p.stat().st_size for p in path.parent.glob(path.name + "*")) / 1e6
            found = features(g.session(path), photos + others)
            near = [f"{c.min():.4f} / {np.median(c):.4f}" for c in map(cosines, exact, found)]
            top = int((exact[1].argmax(axis=1) == found[1].argmax(axis=1)).sum())
            hits = first_hits(found[0][: len(photos)])
            recall = sum(names[hit] == name for hit, (_, name) in zip(hits, queries))
            same = sum(a == b for a, b in zip(first_hits(exact[0]), first_hits(found[0])))
            total = len(exact[0])
            print(f"| {form} | {size:.1f} | {' | '.join(near)} | {top} of {total} | {recall} of {len(queries)} | {same} of {len(queries)} |", flush=True)


if __name__ == "__main__":
    main()

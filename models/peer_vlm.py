#!/usr/bin/env python3
"""An export of a SmolVLM-shaped model in plain ONNX Runtime from Python, for `atom-bench export --peer`.

    target/release/atom-bench export DIR --peer "python3 models/peer_vlm.py"

The graphs run as they were exported, with ONNX Runtime's defaults; keys and values stay in its own tensors between steps. The
question reads the features that the caption made, and keys and values of the prompt that both share. Takes the job as JSON in its
last argument and prints the measurement.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True

import cache  # noqa: E402

cache.own_python("demo")

import numpy as np  # noqa: E402

# The wheel of ONNX Runtime would write a device id below the home folder and look for a server to report to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

SUFFIX = {"fp32": "", "fp16": "_fp16", "int8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}


class Watch:
    """The most anonymous memory this process had at any look."""

    def __init__(self):
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while not self.done.wait(0.005):
            with open("/proc/self/status") as status:
                now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
            self.peak = max(self.peak, now)

    def stop(self):
        self.done.set()
        self.thread.join()
        return self.peak


class Model:
    def __init__(self, job):
        import onnxruntime

        self.ort = onnxruntime
        folder, suffix = Path(job["dir"]) / "onnx", SUFFIX[job["precision"]]

        def load(name):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = job["threads"]
            options.log_severity_level = 3
            return onnxruntime.InferenceSession(str(folder / f"{name}{suffix}.onnx"), options, providers=["CPUExecutionProvider"])

        self.vision, self.embed, self.decoder = map(load, ("vision_encoder", "embed_tokens", "decoder_model_merged"))
        inputs = {port.name: port for port in self.decoder.get_inputs()}
        self.past = [name for name in inputs if name.startswith("past_key_values")]
        self.positions = "position_ids" in inputs
        port = inputs[self.past[0]]
        self.dtype = np.float16 if "float16" in port.type else np.float32
        self.empty = np.zeros((1, port.shape[1], 0, port.shape[3]), self.dtype)
        self.image = job["image_id"]

    def features(self, pixels):
        values = (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        mask = np.ones((1, 1, *pixels.shape[:2]), bool)
        given = {"pixel_values": values.transpose(2, 0, 1)[None, None], "pixel_attention_mask": mask}
        names = {port.name for port in self.vision.get_inputs()}
        return self.vision.run(None, {name: given[name] for name in names})[0].reshape(-1, self.width())

    def width(self):
        return self.embed.get_outputs()[0].shape[-1]

    def rows(self, ids, features):
        """Embeddings of IDS; the picture's rows stand where its token does."""
        ids = np.asarray(ids, np.int64)[None]
        rows = self.embed.run(None, {"input_ids": ids})[0]
        places = np.flatnonzero(ids[0] == self.image)
        if len(places):
            rows[0, places] = features[: len(places)]
        return rows

    def step(self, rows, length, past):
        """(likeliest next token, keys and values), after LENGTH positions."""
        binding = self.decoder.io_binding()
        binding.bind_cpu_input("inputs_embeds", rows)
        total = length + rows.shape[1]
        binding.bind_cpu_input("attention_mask", np.ones((1, total), np.int64))
        if self.positions:
            binding.bind_cpu_input("position_ids", np.arange(length, total)[None])
        for name, value in past.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in self.past:
            binding.bind_output(name.replace("past_key_values", "present"), "cpu")
        self.decoder.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        return int(logits.numpy()[0, -1].argmax()), dict(zip(self.past, present))

    def say(self, ids, features, tokens, length=0, past=None):
        """(tokens, seconds to the first, seconds, keys and values of the prompt)"""
        start = time.perf_counter()
        if past is None:
            past = {name: self.ort.OrtValue.ortvalue_from_numpy(self.empty) for name in self.past}
        features = features() if callable(features) else features
        token, past = self.step(self.rows(ids, features), length, past)
        first, prompt = time.perf_counter() - start, past
        length += len(ids)
        said = [token]
        while len(said) < tokens:
            token, past = self.step(self.rows([token], None), length, past)
            length += 1
            said.append(token)
        return said, first, time.perf_counter() - start, prompt


def measure(job):
    watch = Watch() if job["memory"] else None
    model = Model(job)
    pixels = np.fromfile(job["picture"], np.uint8).reshape(job["side"], job["side"], 3)
    caption, question = job["caption_ids"], job["question_ids"]
    kept = {}

    def features():
        kept["features"] = model.features(pixels)
        return kept["features"]

    # Another picture first, as Atom does.
    model.say(caption, model.features(255 - pixels), 4)
    said, first, seconds, past = model.say(caption, features, job["tokens"])
    shared = next((at for at, pair in enumerate(zip(caption, question)) if pair[0] != pair[1]), min(len(caption), len(question)))
    shared = min(shared, len(question) - 1)
    past = {name: model.ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value.numpy()[:, :, :shared])) for name, value in past.items()}
    missing = question[:shared].count(model.image)
    answer = model.say(question[shared:], kept["features"][missing:], job["tokens"], shared, past)
    return {
        "caption_first_s": first, "caption_s": seconds, "caption_ids": said,
        "question_ids": answer[0], "question_first_s": answer[1], "question_s": answer[2],
        "peak_anon_bytes": watch.stop() if watch else 0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads)
    print(json.dumps(measure(parser.parse_args().job)))

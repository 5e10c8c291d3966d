#!/usr/bin/env python3
"""The decoder's graph in ONNX Runtime from Python, for `atom-bench decode --peer`: IoBinding, one shared KV buffer, greedy.

    target/release/atom-bench decode --peer "python3 models/peer_decode.py"

Takes the job as JSON in its last argument and prints the measurement. Options before it: --set KEY=VALUE, an entry of the
session's configuration, such as session.intra_op.allow_spinning=0; without any, ONNX Runtime's defaults are measured.
"""

import argparse
import json
import os
import sys
import time

sys.dont_write_bytecode = True

import cache  # noqa: E402

cache.own_python("demo")

import numpy as np  # noqa: E402

# The wheel of ONNX Runtime would write a device id below the home folder and look for a server to report to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class Decoder:
    """One buffer per cache, bound once as input and as output; a step binds what changes."""

    def __init__(self, session, job, capacity):
        import onnxruntime

        self.session = session
        self.binding = session.io_binding()
        self.length = 0
        shape = (1, job["kv_heads"], capacity, job["head_dim"])
        for layer in range(job["layers"]):
            for side in ("key", "value"):
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
                self.binding.bind_ortvalue_input(f"past_key_values.{layer}.{side}", cache)
                self.binding.bind_ortvalue_output(f"present.{layer}.{side}", cache)
        self.logits = next(output for output in session.get_outputs() if output.name == "logits").shape[-1]
        self.values = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 1, self.logits), np.float32))
        self.binding.bind_ortvalue_output("logits", self.values)

    def step(self, ids):
        """Feeds token ids; the likeliest next one."""
        self.length += len(ids)
        self.binding.bind_cpu_input("input_ids", np.asarray(ids, np.int64)[None])
        self.binding.bind_cpu_input("attention_mask", np.ones((1, self.length), np.int64))
        self.session.run_with_iobinding(self.binding)
        return int(self.values.numpy().argmax())

    def read(self, ids):
        """Feeds a prompt in even steps of at most 128, as Atom does."""
        steps = -(-len(ids) // 128)
        size = -(-len(ids) // steps)
        for start in range(0, len(ids), size):
            token = self.step(ids[start : start + size])
        return token


def measure(job, settings):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    for setting in settings:
        options.add_session_config_entry(*setting.split("=", 1))
    session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    ids = [at * 7919 % 40_000 for at in range(max(job["prefill"] + job["context"] + [1]))]
    for _ in range(2):
        Decoder(session, job, 64).read(ids[:64])
    prefill, decode = [], []
    for length in job["prefill"]:
        decoder = Decoder(session, job, length)
        start = time.perf_counter()
        decoder.read(ids[:length])
        prefill.append(time.perf_counter() - start)
    for length in job["context"]:
        decoder = Decoder(session, job, length + job["tokens"])
        token = decoder.read(ids[:length])
        start = time.perf_counter()
        for _ in range(job["tokens"]):
            token = decoder.step([token])
        decode.append({"tokens": job["tokens"], "seconds": time.perf_counter() - start})
    return {"prefill_s": prefill, "decode": decode}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("job", type=json.loads)
    given = parser.parse_args()
    print(json.dumps(measure(given.job, given.set)))

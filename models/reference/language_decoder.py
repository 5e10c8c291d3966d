"""SmolLM2-135M-Instruct from its Q4_1 GGUF: a GroupQueryAttention graph with one shared past/present buffer.

The GGUF's own 4-bit values are kept, nothing is quantised a second time. Q4_1 stores w = d*q + m per block of 32 (q in 0..15);
MatMulNBits is fast only with integer zero points, so that w = d*(q - 8) + (m + 8d): the first term is MatMulNBits, the second
the block sums of the input times a small matrix of offsets, which Gemm adds to the first. Gemm wants two dimensions, so the
batch of one is left out between the attentions. The embedding table, which is also the head, is Q8_0 in the GGUF
and goes unchanged to GatherBlockQuantized and an 8-bit MatMulNBits over the same tensor.
"""

import json

import numpy as np
from onnx import TensorProto

import graph as g

BLOCK = 32
# What the pack promises; the weights were trained for 8,192, whose rotary tables and KV buffer nobody here needs.
CONTEXT = 2048


class Weights:
    """Raw blocks of a GGUF file by tensor name."""

    def __init__(self, path):
        import gguf

        self.reader = gguf.GGUFReader(str(path))
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}

    def meta(self, key):
        return self.reader.fields[key].contents()

    def floats(self, name):
        return np.asarray(self.tensors[name].data, np.float32)

    def blocks(self, name, kind, size):
        """[rows, blocks, size] raw bytes of a quantised tensor."""
        tensor = self.tensors[name]
        if tensor.tensor_type.name != kind:
            raise ValueError(f"{name} is {tensor.tensor_type.name}, {kind} expected")
        columns, rows = (int(n) for n in tensor.shape)
        return np.asarray(tensor.data).view(np.uint8).reshape(rows, columns // BLOCK, size)

    def q4_1(self, name):
        """(q [rows, blocks, 32] u8, d [rows, blocks] f32, m [rows, blocks] f32)"""
        raw = self.blocks(name, "Q4_1", 20)
        halves = raw[:, :, :4].copy().view(np.float16).astype(np.float32)
        nibbles = raw[:, :, 4:]
        return np.concatenate([nibbles & 15, nibbles >> 4], axis=2), halves[:, :, 0], halves[:, :, 1]

    def q8_0(self, name):
        """(q [rows, blocks, 32] i8, d [rows, blocks] f32)"""
        raw = self.blocks(name, "Q8_0", 34)
        return raw[:, :, 2:].copy().view(np.int8), raw[:, :, :2].copy().view(np.float16).astype(np.float32)[:, :, 0]


def halves_apart(parts, heads):
    """llama.cpp stores rotary pairs next to each other; ONNX Runtime's fast path wants each head's halves apart."""
    rows = parts[0].shape[0]
    order = np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    return [part[order] for part in parts]


def build(gguf_path, path):
    """Writes the ONNX model; returns (files, facts for the manifest)."""
    weights = Weights(gguf_path)
    layers = weights.meta("llama.block_count")
    heads = weights.meta("llama.attention.head_count")
    kv_heads = weights.meta("llama.attention.head_count_kv")
    width = weights.meta("llama.embedding_length")
    inner = weights.meta("llama.feed_forward_length")
    vocab = weights.meta("llama.vocab_size")
    epsilon = weights.meta("llama.attention.layer_norm_rms_epsilon")
    head_dim = width // heads

    graph = g.Graph("smollm2-135m")
    ids = graph.input("input_ids", "i64", ["batch", "sequence"])
    mask = graph.input("attention_mask", "i64", ["batch", "total"])

    def matmul(source, sums, name, parts, k):
        """source [S, k] times the rows of PARTS (q, d, m); SUMS [S, k/32] are the sums of source by block."""
        q, d, m = parts
        n = q.shape[0]
        packed = q[:, :, 0::2] | (q[:, :, 1::2] << 4)
        main = g.quantised_matmul(graph, name, source, packed, d, k, n, 4, BLOCK)
        offsets = graph.const(f"{name}.offsets", (m + 8 * d).T, np.float32)
        return graph.node("Gemm", [sums, offsets, main])

    def reshaped(source, *shape):
        name = "shape" + ".".join(map(str, shape))
        return graph.node("Reshape", [source, graph.const(name, shape, np.int64)])

    # Every shape below is known up to the symbol S: a 0 in Reshape, Squeeze and Unsqueeze hand it on, a -1 would not. Tensors
    # of unknown size share no memory, and ONNX Runtime compares each with all before it: half of a load.
    def squeezed(source):
        """[1, S, k] as [S, k]"""
        return graph.node("Squeeze", [source, graph.const("axis0", [0], np.int64)])

    def block_sums(source, k):
        """The sums of [S, k] by block, [S, k/32]"""
        apart = reshaped(source, 0, k // BLOCK, BLOCK)
        return graph.node("ReduceSum", [apart, graph.const("axis2", [2], np.int64)], keepdims=0)

    table, table_scales = weights.q8_0("token_embd.weight")
    graph.const("tokens", (table.astype(np.int16) + 128).astype(np.uint8), np.uint8)
    graph.const("tokens.scales3", table_scales[:, :, None], np.float32)
    looked = graph.ms(
        "GatherBlockQuantized", ["tokens", ids, "tokens.scales3"], gather_axis=0, quantize_axis=2, block_size=BLOCK, bits=8
    )
    hidden = squeezed(reshaped(looked, 0, 0, width))

    counted = graph.node("ReduceSum", [mask, graph.const("axis1", [1], np.int64)], keepdims=0)
    last_key = graph.node("Sub", [counted, graph.const("one", [1], np.int64)])
    seqlens = graph.node("Cast", [last_key], to=TensorProto.INT32)
    total = graph.node("Shape", [mask], start=1, end=2)
    total = graph.node("Squeeze", [graph.node("Cast", [total], to=TensorProto.INT32)])

    frequency = weights.meta("llama.rope.freq_base") ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.arange(CONTEXT, dtype=np.float64)[:, None] * frequency[None]
    cosines = graph.const("cosines", np.cos(angles), np.float32)
    sines = graph.const("sines", np.sin(angles), np.float32)

    def norm(source, skip, name):
        """(normed, source + skip)"""
        scale = graph.const(name, weights.floats(name), np.float32)
        if skip is None:
            return graph.node("SimplifiedLayerNormalization", [source, scale], axis=-1, epsilon=epsilon, stash_type=1), source
        normed, summed = f"{name}.normed", f"{name}.sum"
        graph.ms(
            "SkipSimplifiedLayerNormalization", [source, skip, scale], outputs=[normed, "", "", summed], epsilon=epsilon
        )
        return normed, summed

    skip = None
    for index in range(layers):
        block = f"blk.{index}"
        normed, hidden = norm(hidden, skip, f"{block}.attn_norm.weight")
        query = halves_apart(weights.q4_1(f"{block}.attn_q.weight"), heads)
        key = halves_apart(weights.q4_1(f"{block}.attn_k.weight"), kv_heads)
        value = weights.q4_1(f"{block}.attn_v.weight")
        packed = [np.concatenate(parts) for parts in zip(query, key, value)]
        qkv = matmul(normed, block_sums(normed, width), f"{block}.qkv", packed, width)
        qkv = graph.node("Unsqueeze", [qkv, graph.const("axis0", [0], np.int64)])
        past = [f"past_key_values.{index}.{side}" for side in ("key", "value")]
        present = [f"present.{index}.{side}" for side in ("key", "value")]
        for name, shape in [(p, ["batch", kv_heads, "capacity", head_dim]) for p in past]:
            graph.input(name, "f32", shape)
        attended = f"{block}.attended"
        graph.ms(
            "GroupQueryAttention",
            [qkv, "", "", *past, seqlens, total, cosines, sines],
            outputs=[attended, *present],
            num_heads=heads, kv_num_heads=kv_heads, do_rotary=1, rotary_interleaved=0, scale=head_dim**-0.5,
        )
        attended = squeezed(attended)
        skip = matmul(attended, block_sums(attended, width), f"{block}.attn_output", weights.q4_1(f"{block}.attn_output.weight"), width)
        normed, hidden = norm(hidden, skip, f"{block}.ffn_norm.weight")
        gate_up = zip(weights.q4_1(f"{block}.ffn_gate.weight"), weights.q4_1(f"{block}.ffn_up.weight"))
        packed = [np.concatenate(parts) for parts in gate_up]
        both = matmul(normed, block_sums(normed, width), f"{block}.ffn_gate_up", packed, width)
        gate, up = f"{block}.gate", f"{block}.up"
        graph.node("Split", [both], outputs=[gate, up], axis=1, num_outputs=2)
        acted = graph.node("Mul", [graph.ms("QuickGelu", [gate], alpha=1.0), up])
        skip = matmul(acted, block_sums(acted, inner), f"{block}.ffn_down", weights.q4_1(f"{block}.ffn_down.weight"), inner)

    summed = graph.node("Add", [hidden, skip])
    cut = [graph.const(name, [value], np.int64) for name, value in (("from", -1), ("to", np.iinfo(np.int64).max))]
    final = graph.node("Slice", [summed, *cut, graph.const("axis0", [0], np.int64)])
    normed, _ = norm(final, None, "output_norm.weight")
    normed = reshaped(normed, 1, 1, width)
    graph.ms(
        "MatMulNBits",
        [normed, "tokens", graph.const("tokens.scales", table_scales.reshape(-1), np.float32)],
        "logits", K=width, N=vocab, bits=8, block_size=BLOCK, accuracy_level=4,
    )
    graph.output("logits", "f32", [1, 1, vocab])
    for index in range(layers):
        for side in ("key", "value"):
            graph.output(f"present.{index}.{side}", "f32", ["batch", kv_heads, "capacity", head_dim])
    facts = {
        "layers": layers, "kv_heads": kv_heads, "head_dim": head_dim, "vocab": vocab, "context": CONTEXT,
        "kv": "shared", "kv_dtype": "f32", "bos": weights.meta("tokenizer.ggml.bos_token_id"),
        # The end of a chat turn, which the GGUF names, and the end of plain text, which it leaves out.
        "eos": [weights.meta("tokenizer.ggml.eos_token_id"), weights.meta("tokenizer.ggml.tokens").index("<|endoftext|>")],
    }
    return graph.save(path), facts


def tokenizer(gguf_path, target, template):
    """Writes the GGUF's vocabulary and merges as a `tokenizers` file, and its chat template."""
    weights = Weights(gguf_path)
    if (weights.meta("tokenizer.ggml.model"), weights.meta("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise ValueError("the GGUF's tokenizer is not SmolLM's byte-level BPE")
    tokens = weights.meta("tokenizer.ggml.tokens")
    kinds = weights.meta("tokenizer.ggml.token_type")
    control = 3
    added = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for index, (token, kind) in enumerate(zip(tokens, kinds))
        if kind == control
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in weights.meta("tokenizer.ggml.merges")],
        },
    }
    target.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    template.write_text(weights.meta("tokenizer.chat_template"), encoding="utf-8")


class Decoder:
    """The reference way to run the model: greedy, one shared KV buffer, no batching."""

    def __init__(self, session, facts, capacity):
        self.session = session
        shape = (1, facts["kv_heads"], capacity, facts["head_dim"])
        import onnxruntime

        self.kv = {}
        for index in range(facts["layers"]):
            for side in ("key", "value"):
                self.kv[f"{index}.{side}"] = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        self.length = 0

    def step(self, ids):
        """Feeds token ids, returns the last one's logits [vocab]."""
        ids = np.asarray(ids, np.int64).reshape(1, -1)
        self.length += ids.shape[1]
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", np.ones((1, self.length), np.int64))
        for name, value in self.kv.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()[0, -1]

"""all-MiniLM-L6-v2 from its int8 ONNX export: same weights, a smaller and faster graph.

The export stores int8 weights but multiplies in fp32, which ONNX Runtime folds to 90 MB at load. Here the int8 values and
their scales go, unchanged, to MatMulNBits and GatherBlockQuantized, which keep them at 23 MB. Mean pooling, the mean of the
class prompts and the L2 norm are part of the graph, so that its output is a search vector.
"""

import json

import numpy as np
import onnx

import graph as g

WIDTH, LAYERS, HEADS, BLOCK = 384, 6, 12, 128
EPSILON = 1e-12


def read(path):
    """(named fp32 tensors, quantised word table, per layer the quantised matrices in order of use)."""
    model = onnx.load(str(path))
    tensors = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    matrices = []
    for node in model.graph.node:
        name = node.input[1] + "_q" if node.op_type == "MatMul" else None
        if name in tensors:
            matrices.append((tensors[name], tensors[node.input[1] + "_scale"]))
    per_layer = 6
    if len(matrices) != LAYERS * per_layer:
        raise ValueError(f"{path}: {len(matrices)} quantised matrices, {LAYERS * per_layer} expected")
    layers = [matrices[i * per_layer : (i + 1) * per_layer] for i in range(LAYERS)]
    return tensors, layers


def build(source, path, mean=None):
    """Writes the ONNX model. MEAN [384] is taken off the normalised sentence vector before the last L2 norm."""
    tensors, layers = read(source)
    graph = g.Graph("minilm")
    ids = graph.input("input_ids", "i64", ["batch", "sequence"])
    mask = graph.input("attention_mask", "i64", ["batch", "sequence"])

    words = "inner.embeddings.word_embeddings.weight"
    blocks = WIDTH // BLOCK
    # Rows nobody looks up, so that both tables are whole multiples of graph.ALIGN bytes.
    spare = ((0, -len(tensors[words + "_q"]) % g.ALIGN), (0, 0))
    table = graph.const("words", np.pad(tensors[words + "_q"].astype(np.int16) + 128, spare), np.uint8)
    scales = graph.const("words.scales", np.pad(np.repeat(tensors[words + "_scale"], blocks, axis=1), spare), np.float32)
    embedded = graph.ms(
        "GatherBlockQuantized", [table, ids, scales], gather_axis=0, quantize_axis=1, block_size=BLOCK, bits=8
    )
    places = "inner.embeddings.position_embeddings.weight"
    # Only one sentence type exists here: its vector goes into the positions.
    positions = tensors[places + "_q"] * tensors[places + "_scale"] + tensors["inner.embeddings.token_type_embeddings.weight"][0]
    shape = graph.node("Shape", [ids], start=1, end=2)
    placed = graph.node(
        "Slice", [graph.const("positions", positions, np.float32), graph.const("start", [0], np.int64), shape, graph.const("axis0", [0], np.int64)]
    )
    hidden = graph.node("Add", [embedded, placed])

    def norm(source, name):
        scale = graph.const(f"{name}.weight", tensors[f"{name}.weight"], np.float32)
        bias = graph.const(f"{name}.bias", tensors[f"{name}.bias"], np.float32)
        return graph.node("LayerNormalization", [source, scale, bias], axis=-1, epsilon=EPSILON)

    def dense(source, name, matrix):
        values, scale = matrix
        k, n = values.shape
        packed = (values.astype(np.int16) + 128).astype(np.uint8).T.reshape(n, k // BLOCK, BLOCK)
        bias = tensors[f"{name}.bias"]
        return g.quantised_matmul(graph, name, source, packed, np.repeat(scale.T, k // BLOCK, axis=1), k, n, 8, BLOCK, bias=bias)

    hidden = norm(hidden, "inner.embeddings.LayerNorm")
    keys = graph.node("Cast", [mask], to=onnx.TensorProto.INT32)
    for index, (query, key, value, output, up, down) in enumerate(layers):
        name = f"inner.encoder.layer.{index}"
        heads = [
            dense(hidden, f"{name}.attention.self.{part}", matrix)
            for part, matrix in (("query", query), ("key", key), ("value", value))
        ]
        attended = graph.ms("MultiHeadAttention", heads + ["", keys], num_heads=HEADS)
        attended = dense(attended, f"{name}.attention.output.dense", output)
        hidden = norm(graph.node("Add", [attended, hidden]), f"{name}.attention.output.LayerNorm")
        wide = graph.ms("Gelu", [dense(hidden, f"{name}.intermediate.dense", up)])
        hidden = norm(graph.node("Add", [dense(wide, f"{name}.output.dense", down), hidden]), f"{name}.output.LayerNorm")

    weights = graph.node("Unsqueeze", [graph.node("Cast", [mask], to=onnx.TensorProto.FLOAT), graph.const("axis2", [2], np.int64)])
    summed = graph.node("ReduceSum", [graph.node("Mul", [hidden, weights]), graph.const("axis1", [1], np.int64)], keepdims=0)
    # The mean over tokens and its norm: the count cancels.
    last = "text_embeds" if mean is None else None
    unit = graph.node("LpNormalization", [summed], last, axis=1, p=2)
    if mean is not None:
        centred = graph.node("Sub", [unit, graph.const("mean", mean, np.float32)])
        graph.node("LpNormalization", [centred], "text_embeds", axis=1, p=2)
    graph.output("text_embeds", "f32", ["batch", WIDTH])
    return graph.save(path)


def tokenizer(source, target):
    """The tokenizer without its fixed padding and truncation, which the runtime decides."""
    content = json.loads(source)
    content["padding"] = None
    content["truncation"] = None
    target.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def encode(session, tokenizer_path, texts, max_tokens=256):
    """[len(texts), 384] vectors, one text at a time as the runtime does it."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer_path))
    reader.enable_truncation(max_tokens)
    rows = []
    for text in texts:
        ids = np.asarray([reader.encode(text).ids], np.int64)
        rows.append(session.run(["text_embeds"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
    return np.stack(rows)

"""EfficientNet-Lite0 (ImageNet-1k) as a visual encoder: class posteriors, pooled features and a search vector.

The search vector is ConSE (Norouzi et al., 2013): the text vectors of the ten most probable classes, weighted by their
probability. It lives in the text encoder's space, though the network never saw a word. ConSE's vectors are all equally long,
so that a picture the network makes nothing of is as good a hit as a clear one. Here what the classes leave open goes into a
direction that no text has: the cosine with a text is lower, the less the classes agree.
"""

import numpy as np

import graph as g
import torch_file

SIZE = 224
# The network was trained on (x - 127) / 128.
MEAN, STD = 127.0 / 255.0, 128.0 / 255.0
# The whole frame squeezed to a square, and its middle: for wide video better than two squares.
VIEWS = [{"fit": "stretch", "fraction": 1.0}, {"fit": "crop", "fraction": 0.875}]
TOP = 10
EPSILON = 1e-3
# expansion, kernel, stride, channels, repeats
STAGES = [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)]


def build(checkpoint, class_vectors, path):
    """Writes the ONNX model; CLASS_VECTORS [1000, D] are the classes' text vectors, of length 1."""
    # MiniLM's last layer norm switches one dimension off.
    spare = int(np.abs(class_vectors).max(axis=0).argmin())
    if np.abs(class_vectors[:, spare]).max() > 1e-6:
        raise ValueError("the text space has no unused dimension")
    weights = torch_file.load(checkpoint)
    graph = g.Graph("efficientnet-lite0")
    source = graph.input("pixel_values", "f32", ["batch", 3, SIZE, SIZE])
    used = set()

    def take(name):
        used.add(name)
        return weights[name].astype(np.float64)

    def conv(source, size, name, norm, stride=1, group=1, relu=True):
        """Convolution with its batch norm folded in, TensorFlow's SAME padding; returns (output, size)."""
        scale = take(f"{norm}.weight") / np.sqrt(take(f"{norm}.running_var") + EPSILON)
        kernel = take(f"{name}.weight") * scale[:, None, None, None]
        bias = take(f"{norm}.bias") - take(f"{norm}.running_mean") * scale
        k = kernel.shape[2]
        after = -(-size // stride)
        total = max((after - 1) * stride + k - size, 0)
        before = total // 2
        pads = [before, before, total - before, total - before]
        inputs = [source, graph.const(f"{name}.weight", kernel, np.float32), graph.const(f"{name}.bias", bias, np.float32)]
        out = graph.node("Conv", inputs, kernel_shape=[k, k], strides=[stride, stride], pads=pads, group=group)
        if relu:
            out = graph.node("Clip", [out, graph.const("zero", 0.0, np.float32), graph.const("six", 6.0, np.float32)])
        return out, after

    out, size = conv(source, SIZE, "_conv_stem", "_bn0", stride=2)
    channels, index = 32, 0
    for expansion, _, stride, produced, repeats in STAGES:
        for repeat in range(repeats):
            block = f"_blocks.{index}"
            step = stride if repeat == 0 else 1
            kept = out
            if expansion != 1:
                out, size = conv(out, size, f"{block}._expand_conv", f"{block}._bn0")
            out, size = conv(out, size, f"{block}._depthwise_conv", f"{block}._bn1", step, channels * expansion)
            out, size = conv(out, size, f"{block}._project_conv", f"{block}._bn2", relu=False)
            if step == 1 and channels == produced:
                out = graph.node("Add", [out, kept])
            channels, index = produced, index + 1
    out, size = conv(out, size, "_conv_head", "_bn1")
    # The products are convolutions of one pixel: ONNX Runtime keeps their weights on disk as it uses them, those of Gemm and MatMul
    # it packs again at every load, which was half of it.
    pooled = graph.node("GlobalAveragePool", [out])
    graph.node("Flatten", [pooled], "pooler_output", axis=1)

    def product(source, name, matrix, bias=()):
        """[batch, k, 1, 1] times the rows of MATRIX [n, k], [batch, n]"""
        inputs = [source, graph.const(name, matrix[:, :, None, None], np.float32), *bias]
        return graph.node("Flatten", [graph.node("Conv", inputs, kernel_shape=[1, 1])], axis=1)

    logits = product(pooled, "_fc.weight", take("_fc.weight"), [graph.const("_fc.bias", take("_fc.bias"), np.float32)])
    posteriors = graph.node("Softmax", [logits], "posteriors", axis=1)
    left = [name for name in weights if name not in used and not name.endswith("num_batches_tracked")]
    if left:
        raise ValueError(f"the checkpoint is not EfficientNet-Lite0: {left[:3]} has no place")

    graph.node("TopK", [posteriors, graph.const("top", [TOP], np.int64)], outputs=["best", "best_class"], axis=1)
    floor = graph.node("ReduceMin", ["best", graph.const("classes", [1], np.int64)], keepdims=1)
    kept = graph.node("Where", [graph.node("GreaterOrEqual", [posteriors, floor]), posteriors, "zero"])
    pixel = graph.node("Unsqueeze", [kept, graph.const("space", [2, 3], np.int64)])
    mixed = product(pixel, "class_vectors", class_vectors.T)
    # Its length is 1 for one certain class, small for many that have nothing in common.
    agreed = graph.node("ReduceL2", [mixed, "classes"], keepdims=1)
    kept_share = graph.node("Sqrt", [graph.node("Sqrt", [agreed])])
    known = graph.node("Mul", [graph.node("Div", [mixed, agreed]), kept_share])
    one = graph.const("one", 1.0, np.float32)
    open_share = graph.node("Sqrt", [graph.node("Relu", [graph.node("Sub", [one, graph.node("Mul", [kept_share, kept_share])])])])
    unused = graph.const("unused", np.eye(class_vectors.shape[1])[spare][None], np.float32)
    whole = graph.node("Add", [known, graph.node("Mul", [open_share, unused])])
    graph.node("LpNormalization", [whole], "image_embeds", axis=1, p=2)
    graph.output("image_embeds", "f32", ["batch", class_vectors.shape[1]])
    graph.output("posteriors", "f32", ["batch", 1000])
    graph.output("pooler_output", "f32", ["batch", 1280])
    return graph.save(path)


def preprocess(image):
    """The views of a PIL image as the runtime makes them: [views, 3, SIZE, SIZE] f32."""
    from PIL import Image

    image = image.convert("RGB")
    width, height = image.size
    rows = []
    for spec in VIEWS:
        wide, high = (width, height) if spec["fit"] == "stretch" else [min(width, height)] * 2
        wide, high = wide * spec["fraction"], high * spec["fraction"]
        left, top = (width - wide) / 2, (height - high) / 2
        view = image.resize((SIZE, SIZE), Image.BICUBIC, box=(left, top, left + wide, top + high))
        pixels = np.asarray(view, np.float32) / np.float32(255)
        rows.append(((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1))
    return np.stack(rows)


def golden_input():
    """Two smooth, deterministic pictures, in preprocessed form."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    rows = []
    for phase in (0.0, 1.3):
        planes = [np.sin(6.0 * x + 2.0 * c + phase) * np.cos((4.0 + c) * y - phase) for c in range(3)]
        rows.append(np.stack(planes))
    return np.stack(rows).astype(np.float32)

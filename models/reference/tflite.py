"""TensorFlow Lite models to ONNX: a reader of the file format and the dozen operations that the pack's detectors use.

Activations are NHWC in the file and NCHW in the graph; what RESHAPE makes of them is rows of anchors, for any batch.
Field numbers are those of TensorFlow Lite's schema, version 3.
"""

import flatbuffers
import numpy as np
from flatbuffers import number_types as kinds

DTYPES = {0: np.float32, 1: np.float16, 2: np.int32}
OPERATIONS = {
    0: "add", 2: "concatenation", 3: "conv", 4: "depthwise", 6: "dequantize", 17: "max_pool", 22: "reshape", 23: "resize", 34: "pad", 54: "prelu",
}
SAME = 0


class Table:
    """A table of a flatbuffer; fields by number."""

    def __init__(self, buffer, place):
        self.table = flatbuffers.table.Table(buffer, place)

    def field(self, number):
        return self.table.Offset(4 + 2 * number)

    def scalar(self, number, kind, default=0):
        offset = self.field(number)
        return self.table.Get(kind, self.table.Pos + offset) if offset else default

    def child(self, number):
        offset = self.field(number)
        return Table(self.table.Bytes, self.table.Indirect(self.table.Pos + offset))

    def children(self, number):
        offset = self.field(number)
        start, count = (self.table.Vector(offset), self.table.VectorLen(offset)) if offset else (0, 0)
        return [Table(self.table.Bytes, self.table.Indirect(start + 4 * index)) for index in range(count)]

    def numbers(self, number, dtype):
        offset = self.field(number)
        if not offset:
            return np.zeros(0, dtype)
        return np.frombuffer(self.table.Bytes, dtype, self.table.VectorLen(offset), self.table.Vector(offset))


class Model:
    """The one graph of a .tflite file."""

    def __init__(self, content):
        if content[4:8] != b"TFL3":
            raise ValueError("not a TensorFlow Lite file")
        root = Table(content, int.from_bytes(content[:4], "little"))
        self.codes = [max(code.scalar(0, kinds.Int8Flags), code.scalar(3, kinds.Int32Flags)) for code in root.children(1)]
        (graph,) = root.children(2)
        buffers = root.children(4)
        self.names, self.shapes, self.values = [], [], {}
        for index, tensor in enumerate(graph.children(0)):
            self.shapes.append(tensor.numbers(0, np.int32).tolist())
            self.names.append(bytes(tensor.numbers(3, np.uint8)).decode())
            raw = buffers[tensor.scalar(2, kinds.Uint32Flags)].numbers(0, np.uint8)
            if raw.size:
                self.values[index] = raw.view(DTYPES[tensor.scalar(1, kinds.Int8Flags)]).reshape(self.shapes[-1])
        self.inputs, self.outputs = graph.numbers(1, np.int32).tolist(), graph.numbers(2, np.int32).tolist()
        self.operators = graph.children(3)


class Translation:
    """Adds MODEL's operators to GRAPH; `result(name)` is then the ONNX name of one of its outputs."""

    def __init__(self, graph, model, source):
        self.graph, self.model, self.values = graph, model, dict(model.values)
        (first,) = model.inputs
        self.done = {first: source}
        # Results that are rows of anchors already.
        self.rows = set()
        for operator in model.operators:
            code = model.codes[operator.scalar(0, kinds.Uint32Flags)]
            if code not in OPERATIONS:
                raise ValueError(f"no translation for operator {code}")
            inputs = operator.numbers(1, np.int32).tolist()
            (output,) = operator.numbers(2, np.int32).tolist()
            getattr(self, OPERATIONS[code])(operator, inputs, output)

    def result(self, name):
        (index,) = [index for index in self.model.outputs if self.model.names[index] == name]
        return self.done[index]

    def const(self, index, value):
        return self.graph.const(f"constant_{index}", value, np.float32)

    def dequantize(self, _, inputs, output):
        """Weights stored as halves."""
        self.values[output] = self.values[inputs[0]].astype(np.float32)

    def activate(self, name, code, output):
        """The activation fused into an operator: none, ReLU or ReLU6."""
        if code == 1:
            name = self.graph.node("Relu", [name])
        elif code == 3:
            limits = [self.graph.const("zero", 0.0, np.float32), self.graph.const("six", 6.0, np.float32)]
            name = self.graph.node("Clip", [name, *limits])
        elif code:
            raise ValueError(f"activation {code}")
        self.done[output] = name

    def window(self, options, source, edges, strides):
        """The attributes of a window that slides over SOURCE."""
        before, after = [], []
        for axis in (0, 1):
            size, edge, stride = self.model.shapes[source][1 + axis], edges[axis], strides[axis]
            total = max((-(-size // stride) - 1) * stride + edge - size, 0) if options.scalar(0, kinds.Int8Flags) == SAME else 0
            before.append(total // 2)
            after.append(total - total // 2)
        return {"kernel_shape": list(edges), "strides": list(strides), "pads": before + after}

    def conv(self, operator, inputs, output, depthwise=False):
        options = operator.child(4)
        strides = [options.scalar(2, kinds.Int32Flags), options.scalar(1, kinds.Int32Flags)]
        kernel = self.values[inputs[1]].transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        edges = kernel.shape[2:]
        kernel = [self.const(inputs[1], kernel), self.const(inputs[2], self.values[inputs[2]])]
        window = self.window(options, inputs[0], edges, strides)
        group = self.model.shapes[inputs[0]][3] if depthwise else 1
        made = self.graph.node("Conv", [self.done[inputs[0]], *kernel], group=group, **window)
        self.activate(made, options.scalar(4 if depthwise else 3, kinds.Int8Flags), output)

    def depthwise(self, operator, inputs, output):
        self.conv(operator, inputs, output, depthwise=True)

    def max_pool(self, operator, inputs, output):
        options = operator.child(4)
        strides, edges = ([options.scalar(number, kinds.Int32Flags) for number in pair] for pair in ((2, 1), (4, 3)))
        made = self.graph.node("MaxPool", [self.done[inputs[0]]], **self.window(options, inputs[0], edges, strides))
        self.activate(made, options.scalar(5, kinds.Int8Flags), output)

    def add(self, operator, inputs, output):
        made = self.graph.node("Add", [self.done[index] for index in inputs])
        self.activate(made, operator.child(4).scalar(0, kinds.Int8Flags), output)

    def prelu(self, _, inputs, output):
        slope = self.const(inputs[1], self.values[inputs[1]].reshape(-1, 1, 1))
        self.done[output] = self.graph.node("PRelu", [self.done[inputs[0]], slope])

    def pad(self, _, inputs, output):
        pads = self.values[inputs[1]][[0, 3, 1, 2]].T.reshape(-1)
        self.done[output] = self.graph.node("Pad", [self.done[inputs[0]], self.graph.const(f"pads_{output}", pads, np.int64)])

    def resize(self, operator, inputs, output):
        options = operator.child(4)
        if options.scalar(2, kinds.BoolFlags):
            way = "align_corners"
        else:
            way = "half_pixel" if options.scalar(3, kinds.BoolFlags) else "asymmetric"
        old, new = self.model.shapes[inputs[0]], self.model.shapes[output]
        scales = self.graph.const(f"scales_{output}", [1, 1, new[1] / old[1], new[2] / old[2]], np.float32)
        made = self.graph.node("Resize", [self.done[inputs[0]], "", scales], mode="linear", coordinate_transformation_mode=way)
        self.done[output] = made

    def reshape(self, _, inputs, output):
        """A grid's anchors as rows; a dimension of 1 between them and their numbers, which comes and goes, is left out."""
        source, last = self.done[inputs[0]], self.model.shapes[output][-1]
        if inputs[0] not in self.rows:
            source = self.graph.node("Transpose", [source], perm=[0, 2, 3, 1])
        self.done[output] = self.graph.node("Reshape", [source, self.graph.const(f"rows_{last}", [0, -1, last], np.int64)])
        self.rows.add(output)

    def concatenation(self, _, inputs, output):
        if not self.rows.issuperset(inputs):
            raise ValueError("only rows of anchors are joined")
        self.rows.add(output)
        self.done[output] = self.graph.node("Concat", [self.done[index] for index in inputs], axis=1)

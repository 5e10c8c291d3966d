"""A small ONNX graph writer: named nodes and initializers, weights in one external data file, byte-for-byte repeatable."""

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

# The wheel of ONNX Runtime would write a device id below the home folder and look for a server to report to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# ONNX Runtime maps external data by page; a big tensor that starts on a page shares none with its neighbour.
PAGE = 4096
SMALL = 1024
# When ONNX Runtime 1.31 writes a prepacked form it packs the tensors one behind the other; the packed 4- and 8-bit blocks hold
# inner offsets that are only right if they land on a multiple of 64 bytes in the file. With another size before them the
# form loads, runs and returns garbage. So in a graph with such blocks every external tensor is a multiple of that.
ALIGN = 64
DTYPES = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "i64": TensorProto.INT64,
    "i32": TensorProto.INT32,
    "u8": TensorProto.UINT8,
    "i8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


class Graph:
    def __init__(self, name, opset=18):
        self.name = name
        self.opset = opset
        self.nodes = []
        self.inputs = []
        self.outputs = []
        self.tensors = {}
        self.contrib = False
        self.count = 0

    def input(self, name, dtype, shape):
        self.inputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))
        return name

    def output(self, name, dtype, shape):
        self.outputs.append(helper.make_tensor_value_info(name, DTYPES[dtype], shape))

    def const(self, name, value, dtype=None):
        value = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        if name in self.tensors:
            old = self.tensors[name]
            assert old.shape == value.shape and np.array_equal(old, value), f"two constants named {name}"
        self.tensors[name] = value
        return name

    def node(self, op, inputs, output=None, outputs=None, domain="", **attributes):
        """Adds a node, returns its (first) output's name."""
        self.count += 1
        if outputs is None:
            outputs = [output or f"{op.lower()}_{self.count}"]
        if domain:
            self.contrib = True
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{self.count}", domain=domain, **attributes))
        return outputs[0]

    def ms(self, op, inputs, output=None, outputs=None, **attributes):
        """A node of ONNX Runtime's own domain."""
        return self.node(op, inputs, output, outputs, domain="com.microsoft", **attributes)

    def save(self, path):
        """Writes PATH and PATH.data; returns the two paths."""
        path = Path(path)
        data = path.with_name(path.name + ".data")
        protos = []
        packs = any(node.op_type == "MatMulNBits" for node in self.nodes)
        used = {name for node in self.nodes for name in node.input}
        with open(data, "wb") as out:
            for name, value in self.tensors.items():
                assert name in used, f"unused constant {name}"
                if value.nbytes < SMALL:
                    protos.append(onnx.numpy_helper.from_array(value, name))
                    continue
                assert not packs or value.nbytes % ALIGN == 0, f"{name}: {value.nbytes} bytes, see ALIGN"
                step = PAGE if value.nbytes >= PAGE else ALIGN
                out.write(b"\0" * (-out.tell() % step))
                proto = TensorProto(name=name, dims=value.shape, data_type=helper.np_dtype_to_tensor_dtype(value.dtype))
                proto.data_location = TensorProto.EXTERNAL
                for key, entry in (("location", data.name), ("offset", out.tell()), ("length", value.nbytes)):
                    proto.external_data.add(key=key, value=str(entry))
                out.write(value.tobytes())
                protos.append(proto)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.contrib:
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, protos)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="atom")
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path, data


def session(path, threads=2):
    """An ONNX Runtime session on the CPU, as the reference runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def file_ref(root, path):
    """A pack.toml FileRef for PATH inside the pack ROOT."""
    content = Path(path).read_bytes()
    name = Path(path).relative_to(root).as_posix()
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def golden(root, session_, name, cosine, inputs, ports, hidden=None):
    """Runs INPUTS and stores them with the outputs PORTS as raw little-endian files; returns the [module.golden] table.

    HIDDEN inputs are fed but not stored: the empty past that every decoder starts from.
    """
    folder = Path(root) / "golden"
    folder.mkdir(exist_ok=True)
    results = session_.run(ports, {**inputs, **(hidden or {})})
    table = {"cosine": cosine, "inputs": [], "outputs": []}
    for side, arrays in (("inputs", inputs), ("outputs", dict(zip(ports, results)))):
        for port, value in arrays.items():
            path = folder / f"{name}.{port}.bin"
            path.write_bytes(np.ascontiguousarray(value).tobytes())
            table[side].append({"port": port, "shape": list(value.shape), "file": file_ref(root, path)})
    return table


def quantised_matmul(graph, prefix, source, packed, scales, k, n, bits, block, output=None, bias=None, level=4):
    """MatMulNBits over already packed weights: packed [n, k/block, block*bits/8] u8, scales [n, k/block] f32."""
    inputs = [source, graph.const(f"{prefix}.weight", packed, np.uint8), graph.const(f"{prefix}.scales", scales.reshape(-1), np.float32)]
    if bias is not None:
        inputs += ["", "", graph.const(f"{prefix}.bias", bias, np.float32)]
    return graph.ms("MatMulNBits", inputs, output, K=k, N=n, bits=bits, block_size=block, accuracy_level=level)

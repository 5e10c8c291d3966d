"""The visual encoder for NPUs: 8-bit weights per channel, quantised activations, a batch of the two views.

The network's own nodes are quantised. The search head behind it, a few small products and roots, stays in floats: NPUs run
those in 16 bits. The ranges of the activations are in visual_ranges.json, which `models/calibrate.py` makes from real frames, so
that this needs no pictures and gives the same bytes everywhere.
"""

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

import visual_encoder

RANGES = Path(__file__).with_name("visual_ranges.json")
ACTIVATIONS = {8: QuantType.QUInt8, 16: QuantType.QUInt16}
BATCH = len(visual_encoder.VIEWS)
# The first node of the search head.
HEAD = "Softmax"


def fixed(source):
    """The graph at SOURCE with its batch fixed, and the names of the nodes to leave in floats."""
    model = onnx.load(source)
    for value in list(model.graph.input) + list(model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = BATCH
    names = [node.name for node in model.graph.node]
    first = next(i for i, node in enumerate(model.graph.node) if node.op_type == HEAD)
    return model, names[first:]


def build(source, bits, path, work):
    """Writes PATH: SOURCE with activations of BITS; WORK is a folder for what lies between."""
    logging.getLogger().setLevel(logging.ERROR)
    model, floats = fixed(source)
    plain = Path(work) / "fixed.onnx"
    onnx.save(model, plain)
    config = get_qnn_qdq_config(
        plain, None, activation_type=ACTIVATIONS[bits], weight_type=QuantType.QInt8, per_channel=True, weight_symmetric=True
    )
    quantised = {node.op_type for node in model.graph.node if node.name not in floats}
    quantize_static(
        plain, path, None,
        op_types_to_quantize=sorted(quantised & set(config.op_types_to_quantize)),
        nodes_to_exclude=floats, per_channel=True,
        activation_type=config.activation_type, weight_type=config.weight_type,
        extra_options=config.extra_options, calibration_cache_path=RANGES,
    )
    plain.unlink()
    return path

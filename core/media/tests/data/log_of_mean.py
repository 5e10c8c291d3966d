"""Writes log_of_mean.onnx: the logarithm of each channel's mean. NaN below 0, zero at 1 (`pip install onnx`)."""
import pathlib

from onnx import TensorProto, checker, helper

pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 8, 8])
vector = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", 3])
nodes = [
    helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
    helper.make_node("Log", ["mean"], ["image_embeds"]),
]
graph = helper.make_graph(nodes, "log_of_mean", [pixels], [vector])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
pathlib.Path(__file__).with_name("log_of_mean.onnx").write_bytes(model.SerializeToString())

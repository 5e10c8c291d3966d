"""MediaPipe's palm detector (192 x 192) from its TensorFlow Lite file.

Every place of two grids has two or six anchors as large as the picture; of each the network gives a logit and eighteen
offsets in pixels: the palm's box, and seven points of the hand, which are left out.
"""

import numpy as np

import anchors
import graph as g
import tflite

SIZE, BEST, LABELS = 192, 20, ["hand"]
# (places across, anchors at a place)
GRIDS = [(24, 2), (12, 6)]


def build(content, path):
    """Writes the ONNX model; CONTENT is the .tflite file."""
    graph = g.Graph("palms")
    body = tflite.Translation(graph, tflite.Model(content), graph.input("pixel_values", "f32", ["batch", 3, SIZE, SIZE]))
    places = []
    for grid, many in GRIDS:
        y, x = np.mgrid[0:grid, 0:grid]
        places.append(np.repeat((np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / grid, many, axis=0))
    parts = graph.node("Div", [body.result("Identity"), graph.const("size", SIZE, np.float32)])
    middles = graph.node("Add", [anchors.columns(graph, parts, 0, 2, "shift"), graph.const("places", np.concatenate(places), np.float32)])
    anchors.boxes(graph, body.result("Identity_1"), middles, anchors.columns(graph, parts, 2, 4, "extent"), BEST)
    return graph.save(path)

"""SSD on MobileNetV2 (300 x 300), 23 classes of Open Images, from MediaPipe's TensorFlow Lite file.

The file ends in the logits and the coded boxes of 1,917 anchors; the anchors are those of TensorFlow's SSD: six grids,
scales from 0.2 to 0.95, aspect ratios 1, 2, 1/2, 3, 1/3 and a further square (on the first grid 1, 2, 1/2).
"""

import numpy as np

import anchors
import graph as g
import tflite

SIZE, BEST = 300, 100
GRIDS, LOWEST, HIGHEST = (19, 10, 5, 3, 2, 1), 0.2, 0.95
LABELS = (
    "Bicycle,Boot,Laptop,Person,Chair,Cattle,Desk,Cat,Computer mouse,Computer monitor,Box,Mug,Coffee cup,Stationary bicycle,Table,Bottle,"
    "High heels,Vehicle,Footwear,Dog,Book,Camera,Car"
).split(",")
RATIOS = (1.0, 2.0, 0.5, 3.0, 1.0 / 3.0)
# TensorFlow's box coder: offsets are tenths of the anchor, sizes fifths of a logarithm.
SHIFT, EXTENT = 10.0, 5.0


def places():
    """Centre x, centre y, width and height of every anchor, in the order of the network's rows."""
    scales = [LOWEST + (HIGHEST - LOWEST) * index / (len(GRIDS) - 1) for index in range(len(GRIDS))] + [1.0]
    found = []
    for index, grid in enumerate(GRIDS):
        if index == 0:
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            shapes = [(scales[index], ratio) for ratio in RATIOS] + [(np.sqrt(scales[index] * scales[index + 1]), 1.0)]
        for y in range(grid):
            for x in range(grid):
                for scale, ratio in shapes:
                    found.append([(x + 0.5) / grid, (y + 0.5) / grid, scale * np.sqrt(ratio), scale / np.sqrt(ratio)])
    return np.asarray(found)


def build(content, path):
    """Writes the ONNX model; CONTENT is the .tflite file."""
    graph = g.Graph("ssd-open-images")
    body = tflite.Translation(graph, tflite.Model(content), graph.input("pixel_values", "f32", ["batch", 3, SIZE, SIZE]))
    coded, logits = body.result("raw_outputs/box_encodings"), body.result("raw_outputs/class_predictions")
    anchor = places()

    def swapped(first, name):
        """Two of the coded columns: the file has y before x, height before width."""
        column = [anchors.columns(graph, coded, at, at + 1, f"{name}{at}") for at in (first + 1, first)]
        return graph.node("Concat", column, axis=2)

    shift = graph.node("Mul", [swapped(0, "shift"), graph.const("shifts", anchor[:, 2:] / SHIFT, np.float32)])
    middles = graph.node("Add", [shift, graph.const("places", anchor[:, :2], np.float32)])
    extent = graph.node("Exp", [graph.node("Div", [swapped(2, "extent"), graph.const("fifths", EXTENT, np.float32)])])
    sizes = graph.node("Mul", [extent, graph.const("extents", anchor[:, 2:], np.float32)])
    # Class 0 is the background.
    classes = anchors.columns(graph, logits, 1, 24, "things")
    anchors.boxes(graph, classes, middles, sizes, BEST)
    return graph.save(path)

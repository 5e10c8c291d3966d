"""The tail of the detectors that have anchors: what the network says of each becomes the best boxes, in 0..1 of the view."""

import numpy as np


def boxes(graph, logits, middles, sizes, best):
    """Adds the outputs boxes [batch, BEST, 4], scores [batch, BEST] and classes i64 [batch, BEST] to GRAPH.

    LOGITS [batch, anchors, classes]; MIDDLES and SIZES [batch, anchors, 2]: x and y, width and height, in 0..1.
    """

    def ints(name, value):
        return graph.const(name, value, np.int64)

    count = graph.node("Slice", [graph.node("Shape", [logits]), ints("at2", [2]), ints("at3", [3]), ints("axis0", [0])])
    scores = graph.node("Reshape", [graph.node("Sigmoid", [logits]), ints("flat", [0, -1])])
    graph.node("TopK", [scores, ints("best", [best])], outputs=["scores", "index"], axis=1)
    graph.node("Mod", ["index", count], "classes")
    anchor = graph.node("Unsqueeze", [graph.node("Div", ["index", count]), "at2"])
    half = graph.node("Mul", [sizes, graph.const("half", 0.5, np.float32)])
    corners = graph.node("Concat", [graph.node("Sub", [middles, half]), graph.node("Add", [middles, half])], axis=2)
    wanted = graph.node("Expand", [anchor, ints("four", [1, 1, 4])])
    limits = [graph.const("low", 0.0, np.float32), graph.const("high", 1.0, np.float32)]
    graph.node("Clip", [graph.node("GatherElements", [corners, wanted], axis=1), *limits], "boxes")
    graph.output("boxes", "f32", ["batch", best, 4])
    graph.output("scores", "f32", ["batch", best])
    graph.output("classes", "i64", ["batch", best])


def columns(graph, source, first, last, tag):
    """Columns FIRST to LAST of the last dimension."""
    ends = [graph.const(f"{tag}_first", [first], np.int64), graph.const(f"{tag}_last", [last], np.int64)]
    return graph.node("Slice", [source, *ends, graph.const("axis2", [2], np.int64)])

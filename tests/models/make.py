"""Makes the small models of the tests: `python3 tests/models/make.py` (needs the package onnx).

root.onnx   input x FP32 [N, 2]; scores = sqrt(x), label = argmax(x). A negative x gives NaN scores.
"""

import pathlib

from onnx import TensorProto, checker, helper

OPSET = [helper.make_opsetid("", 17)]

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])
graph = helper.make_graph(
    [
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node("Sqrt", ["x"], ["scores"]),
    ],
    "root",
    [x],
    [label, scores],
)
model = helper.make_model(graph, opset_imports=OPSET, ir_version=8)
checker.check_model(model)
path = pathlib.Path(__file__).with_name("root.onnx")
path.write_bytes(model.SerializeToString())
print(path, path.stat().st_size, "bytes")

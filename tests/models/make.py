"""Makes the small models of the tests: `python3 tests/models/make.py` (needs the package onnx).

root.onnx     input x FP32 [N, 2]; scores = sqrt(x), label = argmax(x). A negative x gives NaN scores.
shifted.onnx  the same of x + [0.5, 0], and no scores: for x uniform in [0, 1] it says what argmax(x) is in
              5 of 8 rows.
first.onnx    the same of x + [1, 0]: it always says 0, so it is right in every second row.
"""

import pathlib

from onnx import TensorProto, checker, helper

OPSET = [helper.make_opsetid("", 17)]

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])


def write(name, nodes, outputs, constants=()):
    graph = helper.make_graph(nodes, name, [x], outputs, list(constants))
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=8)
    checker.check_model(model)
    path = pathlib.Path(__file__).with_name(f"{name}.onnx")
    path.write_bytes(model.SerializeToString())
    print(path, path.stat().st_size, "bytes")


def argmax(of):
    return helper.make_node("ArgMax", [of], ["label"], axis=1, keepdims=0)


write("root", [argmax("x"), helper.make_node("Sqrt", ["x"], ["scores"])], [label, scores])
for name, shift in (("shifted", 0.5), ("first", 1.0)):
    constant = helper.make_tensor("shift", TensorProto.FLOAT, [1, 2], [shift, 0.0])
    add = helper.make_node("Add", ["x", "shift"], ["moved"])
    write(name, [add, argmax("moved")], [label], [constant])

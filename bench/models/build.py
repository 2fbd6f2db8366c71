#!/usr/bin/env python3
"""Build the two real models that `skysail-bench batching` serves.

They cost at least ten times the transport per row, so that what is measured is
batching and not gRPC: an RBF SVM fitted on 10,000 Fashion-MNIST images as they
are, and LeNet in the width of Caffe's example (20 and 50 filters of 5x5, 500
hidden). What a row costs depends on shapes and not on weights, so LeNet keeps
its random ones. The answers of both are never looked at.

    python build.py [--data target/setup/fashion-mnist] [--out target/bench-models]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models" / "fashion-mnist"))
import train  # noqa: E402  (the loader, and the writer with ONNX's own check)

ROWS = 10_000


def rbf_svm(images, labels):
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.svm import SVC

    svm = SVC(C=10, gamma="scale", cache_size=500).fit(images[:ROWS], labels[:ROWS])
    print(f"rbf-svm: {len(svm.support_)} support vectors")
    return convert_sklearn(
        svm, name="rbf-svm", initial_types=[("input", FloatTensorType([None, 784]))],
        options={id(svm): {"zipmap": False}},
        target_opset={"": train.OPSET, "ai.onnx.ml": train.ML_OPSET})


def lenet(seed=7):
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def weight(name, *shape):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(
            (rng.normal(size=shape) * scale).astype(np.float32), name))
        return name

    def shape(name, *dimensions):
        weights.append(numpy_helper.from_array(np.array(dimensions, np.int64), name))
        return name

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    # A 0 in a Reshape keeps that dimension, so the batch stays free.
    h = add("Reshape", ["input", shape("image", 0, 1, 28, 28)], "pixels")
    for i, (fan_in, fan_out) in enumerate([(1, 20), (20, 50)]):
        h = add("Conv", [h, weight(f"kernel{i}", fan_out, fan_in, 5, 5)], f"conv{i}",
                kernel_shape=[5, 5])
        h = add("MaxPool", [h], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
    h = add("Reshape", [h, shape("flat_shape", 0, 800)], "flat")
    h = add("Gemm", [h, weight("w1", 500, 800)], "hidden", transB=1)
    h = add("Relu", [h], "relu")
    h = add("Gemm", [h, weight("w2", 10, 500)], "logits", transB=1)
    add("Softmax", [h], "probabilities", axis=1)
    add("ArgMax", [h], "label", axis=1, keepdims=0)
    graph = helper.make_graph(
        nodes, "lenet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 784])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
         helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", train.OPSET)],
                             ir_version=8, producer_name="skysail-bench")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "target/setup/fashion-mnist")
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench-models")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    images, labels = train.load_split(args.data, "train")
    test, _ = train.load_split(args.data, "t10k")
    for name, model in [("rbf-svm", rbf_svm(images, labels)), ("lenet", lenet())]:
        path = args.out / f"{name}.onnx"
        train.save(model, path)
        scorer = train.Scorer(path)
        took = {n: scorer.latency_us(np.ascontiguousarray(test[:n])) for n in (1, 8, 64)}
        print(f"{path.name}: {path.stat().st_size} bytes, microseconds by rows: {took}")


if __name__ == "__main__":
    main()

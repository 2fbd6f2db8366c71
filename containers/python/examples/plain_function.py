"""Serves a plain function: the length and the mean of each row."""

import numpy as np

from skysail_container import Container, TensorSpec, main


def measure(batch):
    """One norm and one mean per row of four numbers."""
    x = batch["x"]
    return {"norm": np.linalg.norm(x, axis=1), "mean": x.mean(axis=1)}


container = Container.from_function(
    measure,
    inputs=[TensorSpec("x", "FP32", [-1, 4])],
    outputs=[TensorSpec("norm", "FP32", [-1]), TensorSpec("mean", "FP32", [-1])],
)

if __name__ == "__main__":
    main(container)

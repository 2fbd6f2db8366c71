"""Serves a scikit-learn classifier of handwritten digits.

    python3 scikit_learn.py --register 127.0.0.1:7400
    python3 scikit_learn.py --file digits.joblib      # a file that is made where it is missing

Needs `pip install scikit-learn`, whose bundled digits it is trained on, in less than a second.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import joblib  # noqa: E402
import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from skysail_container import Container, TensorSpec, main  # noqa: E402


def trained():
    """On the first 1,500 of 1,797 images."""
    digits = load_digits()
    return LogisticRegression(max_iter=200).fit(digits.data[:1500] / 16, digits.target[:1500])


class Digits(Container):
    """Classifies images of 8 x 8 pixels, each in the unit interval."""

    name = "digits"
    inputs = [TensorSpec("pixels", "FP32", [-1, 64])]
    outputs = [TensorSpec("label", "INT64", [-1]), TensorSpec("scores", "FP32", [-1, 10])]

    def __init__(self, file=None):
        self.file = file

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--file", help="where the model is kept")

    @classmethod
    def from_arguments(cls, arguments):
        return cls(arguments.file)

    def load(self):
        if self.file is None:
            self.model = trained()
            return
        if not os.path.exists(self.file):
            joblib.dump(trained(), self.file)
        self.model = joblib.load(self.file)
        self.digest_files = [self.file]

    def predict(self, batch):
        scores = self.model.predict_proba(batch["pixels"])
        return {"label": scores.argmax(axis=1), "scores": scores.astype(np.float32)}


if __name__ == "__main__":
    main(Digits)

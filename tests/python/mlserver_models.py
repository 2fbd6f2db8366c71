"""Models for tests/mlserver.rs.

As a program it makes a folder that `mlserver start` serves: `mlserver_models.py exact|moods FOLDER`.
MLServer imports it too, for the runtimes that are not scikit-learn's.

exact  digits  logistic regression on scikit-learn's own pictures of digits; digits.f32 holds those
       bare    the same, without inputs and outputs in its metadata, as MLServer's own examples have it
       echo    gives back what it gets, in every datatype that MLServer knows
moods  roots   what tests/models/root.onnx says, but slow or failing as mood.json tells
"""

import json
import pathlib
import sys
import time

import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse, ResponseOutput

DATATYPES = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES".split()


class Echo(MLModel):
    async def predict(self, payload):
        outputs = [
            ResponseOutput(name=f"{i.name}-again", shape=i.shape, datatype=i.datatype, data=i.data)
            for i in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Roots(MLModel):
    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        mood = json.loads(pathlib.Path(self.settings.parameters.uri, "mood.json").read_text())
        # Not asyncio's: a model that computes lets nothing else be answered.
        time.sleep(mood["once"] + mood["each"] * len(x))
        if (x > mood["most"]).any():
            raise InferenceError(f"{x.max():g} is more than {mood['most']:g}")
        outputs = [
            NumpyCodec.encode_output("label", x.argmax(axis=1)),
            NumpyCodec.encode_output("scores", numpy.sqrt(x)),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def tensors(*specs):
    return [{"name": n, "datatype": d, "shape": list(s)} for n, d, *s in specs]


def write(folder, name, implementation, inputs=(), outputs=()):
    folder = folder / name
    folder.mkdir()
    settings = {
        "name": name,
        "implementation": implementation,
        "parameters": {"uri": str(folder)},
        "inputs": tensors(*inputs),
        "outputs": tensors(*outputs),
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return folder


def exact(folder):
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype("<f4")
    pixels.tofile(folder / "digits.f32")
    model = LogisticRegression(max_iter=300).fit(pixels, digits)
    runtime = "mlserver_sklearn.SKLearnModel"
    inputs = [("image", "FP32", -1, 64)]
    outputs = [("predict", "INT64", -1, 1), ("predict_proba", "FP32", -1, 10)]
    for place in write(folder, "digits", runtime, inputs, outputs), write(folder, "bare", runtime):
        joblib.dump(model, place / "model.joblib")

    echo = [(d, d, -1, 1 if d == "BYTES" else 3) for d in DATATYPES]
    again = [(f"{n}-again", *rest) for n, *rest in echo]
    write(folder, "echo", "mlserver_models.Echo", echo, again)


def moods(folder):
    outputs = [("label", "INT64", -1, 1), ("scores", "FP32", -1, 2)]
    write(folder, "roots", "mlserver_models.Roots", [("x", "FP32", -1, 2)], outputs)
    (folder / "roots/mood.json").write_text(json.dumps({"once": 0, "each": 0, "most": 1e30}))


if __name__ == "__main__":
    {"exact": exact, "moods": moods}[sys.argv[1]](pathlib.Path(sys.argv[2]))

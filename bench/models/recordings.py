#!/usr/bin/env python3
"""Record what models say of a test set, for the experiments that replay it.

`watch.npz` (for `personalisation`): seven exercises told from two seconds of a
smart watch's accelerometer and gyroscope, by ten people with either arm: twenty
owners, each with a way of moving of their own. There is one logistic regression
per owner, fitted on the first 70 % of each of the owner's series, and one fitted
on the first 70 % of all. The rest is the test set.

`forests.npz` (for `stragglers`): Fashion-MNIST's test images under sixteen random
forests of ten trees of depth 16, each fitted on 4,000 training images of its own.

    python recordings.py [--data target/setup/fashion-mnist] [--watch FILE.npy]
                         [--out target/bench-models]

The watch's recordings are the file `seglearn/data/watch_dataset.npy` of the Python
package seglearn 1.2.5 (BSD licence), found by itself where that is installed.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[2]

WINDOW = 100  # two seconds at 50 Hz
TRAINED = 0.7
FORESTS, FOREST_ROWS = 16, 4_000


def watch_file(given):
    if given:
        return given
    package = importlib.util.find_spec("seglearn")
    if package is None or not package.submodule_search_locations:
        sys.exit("the watch's recordings are missing: pip install --no-deps seglearn==1.2.5, "
                 "or give its data/watch_dataset.npy with --watch")
    return Path(package.submodule_search_locations[0]) / "data" / "watch_dataset.npy"


def features(window):
    """Level, spread, range, slope and rhythm of each of the six channels."""
    rhythm = np.abs(np.fft.rfft(window - window.mean(0), axis=0))[1:9]
    return np.concatenate([
        window.mean(0), window.std(0), window.min(0), window.max(0),
        np.abs(np.diff(window, axis=0)).mean(0), rhythm.ravel()])


def watch(path):
    data = np.load(path, allow_pickle=True).item()
    owner_of = {owner: place for place, owner in
                enumerate(sorted(set(zip(data["subject"].tolist(), data["side"].tolist()))))}
    train, test = [], []
    for series, exercise, subject, side in zip(
            data["X"], data["y"], data["subject"], data["side"]):
        owner = owner_of[(subject.item(), side.item())]
        cut = int(len(series) * TRAINED)
        for part, rows in ((series[:cut], train), (series[cut:], test)):
            for start in range(0, len(part) - WINDOW + 1, WINDOW // 2 if rows is train else WINDOW):
                rows.append((features(part[start:start + WINDOW]), int(exercise), owner))
    x, y, owners = (np.array(column) for column in zip(*train))
    tx, ty, towners = (np.array(column) for column in zip(*test))
    classes = int(y.max()) + 1

    def fit(rows):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500))
        model.fit(x[rows], y[rows])
        scores = np.zeros((len(tx), classes), np.float32)
        scores[:, model.classes_] = model.predict_proba(tx)
        return scores

    own = [fit(owners == owner) for owner in range(len(owner_of))]
    everybody = fit(np.ones(len(x), bool))
    scores = np.stack(own + [everybody], axis=1)
    right = scores.argmax(2) == ty[:, None]
    of_owner = [right[towners == owner] for owner in range(len(own))]
    print(f"watch: {len(tx)} windows of {len(own)} owners; own model "
          f"{np.mean([r[:, owner].mean() for owner, r in enumerate(of_owner)]):.3f}, everybody's "
          f"{right[:, -1].mean():.3f}, the best of another owner "
          f"{np.mean([np.delete(r[:, :-1], o, 1).mean(0).max() for o, r in enumerate(of_owner)]):.3f}")
    return {"scores": scores, "targets": ty, "owners": towners}


def split(folder, name):
    images = np.fromfile(folder / f"{name}-images-idx3-ubyte", np.uint8)[16:]
    labels = np.fromfile(folder / f"{name}-labels-idx1-ubyte", np.uint8)[8:]
    return images.reshape(len(labels), -1) / np.float32(255), labels.astype(np.int64)


def forests(folder):
    images, labels = split(folder, "train")
    test, targets = split(folder, "t10k")
    rng = np.random.default_rng(7)
    scores = []
    for seed in range(FORESTS):
        rows = rng.choice(len(images), FOREST_ROWS, replace=False)
        forest = RandomForestClassifier(10, max_depth=16, random_state=seed)
        forest.fit(images[rows], labels[rows])
        scores.append(forest.predict_proba(test).astype(np.float32))
    scores = np.stack(scores, axis=1)
    alone = (scores.argmax(2) == targets[:, None]).mean(0)
    together = (scores.mean(1).argmax(1) == targets).mean()
    print(f"forests: alone {alone.min():.3f} to {alone.max():.3f}, together {together:.3f}")
    return {"scores": scores, "targets": targets}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "target/setup/fashion-mnist")
    parser.add_argument("--watch", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench-models")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, recorded in [("watch", watch(watch_file(args.watch))),
                           ("forests", forests(args.data))]:
        recorded["targets"] = recorded["targets"].astype(np.int64)
        path = args.out / f"{name}.npz"
        np.savez_compressed(path, **recorded)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

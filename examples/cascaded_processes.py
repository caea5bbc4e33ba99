"""Cascaded Forward on the digits: features are written to disk once, and each predictor learns in a process of its own.

    python examples/cascaded_processes.py

The processes read the features from the files, page by page, and need neither the blocks nor each other: weights come
back through shared memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, multiprocessing, nn

from beyondprop import CascadedForward, LinearPredictor, data, evaluate, fit

EPOCHS, BATCH = 10, 64


def blocks() -> nn.Sequential:
    """Three random blocks, the paper's at the size of 8x8 images."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers)


def write_features(rule: CascadedForward, x: Tensor, folder: Path) -> list[Path]:
    """Write what each block gives, batch by batch; no more than a batch is in memory."""
    files = [folder / f"block-{k}.npy" for k in range(len(rule.shapes))]
    arrays = [
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(x), shape.numel()))
        for file, shape in zip(files, rule.shapes, strict=True)
    ]
    for start in range(0, len(x), BATCH):
        for array, features in zip(arrays, rule.features(x[start : start + BATCH]), strict=True):
            array[start : start + len(features)] = features.flatten(1)
    for array in arrays:
        array.flush()
    return files


def train_predictor(predictor: LinearPredictor, file: Path, y: Tensor, epochs: int) -> None:
    """Train one predictor from its file, in whatever process this is."""
    torch.set_num_threads(1)
    features = torch.from_numpy(np.load(file, mmap_mode="r+"))
    batches = [(features[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(y), BATCH)]  # views: nothing is read
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    fit(predictor, batches, optimizer=optimizer, epochs=epochs, progress=False)


def main(epochs: int = EPOCHS) -> dict[str, float]:
    """Train the predictors side by side and return the test accuracy of each and of all together."""
    torch.manual_seed(0)
    train, test = data.load("digits")
    (x, y), (test_x, test_y) = ((part.images.float() / part.high, part.labels) for part in (train, test))
    rule = CascadedForward(blocks(), x[:2], train.classes)
    with torch.no_grad():
        rule.features(x)  # in training mode: batch norms take the statistics of the training images
    rule.eval().share_memory()
    with tempfile.TemporaryDirectory() as folder:
        files = write_features(rule, x, Path(folder))
        spawned = multiprocessing.get_context("spawn")
        work = [
            spawned.Process(target=train_predictor, args=(predictor, file, y, epochs))
            for predictor, file in zip(rule.predictors, files, strict=True)
        ]
        for process in work:
            process.start()
        for process in work:
            process.join()
        if any(process.exitcode for process in work):
            raise SystemExit("a predictor's process has failed: see its error above")
    found = {
        f"block {number} alone": evaluate(predictor, [(features, test_y)])["accuracy"]
        for number, (predictor, features) in enumerate(
            zip(rule.predictors, rule.features(test_x), strict=True), start=1
        )
    }
    found["all together"] = evaluate(rule, [(test_x, test_y)])["accuracy"]
    for name, accuracy in found.items():
        print(f"{name:20} {accuracy:.1%}")
    return found


if __name__ == "__main__":
    main()

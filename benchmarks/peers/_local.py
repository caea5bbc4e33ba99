"""What the sides of `local_step.py` share: the command line, and settings that must be the same on both."""

from __future__ import annotations

import argparse

from _common import parser

TASKS = ("loewe", "dah33", "cafo", "rules")
LOADER = "loader"  # ends the names of methods that fetch their batch from a data set in memory
HELD = 50_000  # images of the data set in memory, as MNIST's without those held out
LOEWE = {"lr": 1e-3, "weight_decay": 3e-4, "momentum": 0.9}
LOEWE_READOUT = {"lr": 1e-2, "weight_decay": 3e-3, "momentum": 0.9}
PEER = 0.03
ADAM = {"lr": 1e-3}
CAFO_STEP = 0.01


def local_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make the command line that all sides have."""
    made = parser(doc)
    made.add_argument("--hidden", type=int, default=1000, help="width of the hidden layers")
    made.add_argument("--depth", type=int, default=3, help="hidden layers")
    made.add_argument("--network", choices=("perceptron", "cascade"), default="perceptron")
    made.add_argument("--epochs", type=int, default=5, help="full-batch steps of CaFo's predictors that are one call")
    made.add_argument("--product", type=int, default=2048, help="side of the matrices whose product is timed")
    return made


def first_features(image: tuple[int, int, int]) -> int:
    """Count what the first block of CaFo's network gives for an image, which is the predictor's input."""
    _, height, width = image
    return 32 * (height // 2) * (width // 2)

"""What the sides of `perturbation_step.py` share: the command line, and settings that must be the same on both."""

from __future__ import annotations

import argparse

from _common import parser

TASKS = ("fwdgrad", "mixer")
SGD = {"lr": 2e-4}  # of fwdgrad's default configuration


def perturbation_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make the command line that all sides have."""
    made = parser(doc)
    made.add_argument("--hidden", type=int, default=1024, help="width of the two hidden layers, or of LocalMixer")
    return made

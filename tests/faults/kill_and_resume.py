"""Kill a training with SIGKILL at random moments, resume it, and compare with one that was never stopped.

    python tests/faults/kill_and_resume.py --moments 20

The training saves a checkpoint after every step, so that many of the moments fall into the writing of one. After every
kill each checkpoint that stands must be whole; at the end of every run the weights, the optimizer's state and the
metrics must be those of the uninterrupted run, bit for bit. A run that ends before all moments are used up is followed
by another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from beyondprop.data import Splits, image_set
from beyondprop.recipe import Experiment, Recipe, Settings
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training import Execution, train
from beyondprop.training.checkpoint import Checkpoint, load, read, standing

CLOCK = ("seconds", "images_per_second")  # the fields that may differ
PATIENCE = 120.0  # seconds for a training to show its first checkpoint


def run(folder: Path, steps: int, *, checkpoint_seconds: float) -> None:
    """Train a small network with dropout and a schedule, from the folder's checkpoint if there is one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (250, 1, 8, 8), generator=generator, dtype=torch.uint8)
    data = image_set(images, images[:, 0, 0, 0] % 3)

    def build(_settings: Settings, _splits: Splits) -> Experiment:
        layers = (nn.Flatten(), nn.Linear(64, 400), nn.BatchNorm1d(400), nn.ReLU(), nn.Dropout(0.5), nn.Linear(400, 3))
        return Experiment(Backprop(nn.Sequential(*layers)))

    # 200 images remain for training: 10 steps an epoch.
    settings = Settings(epochs=steps // 10, batch_size=20, lr_schedule="one-cycle", validation=50)
    recipe = Recipe("bp/kill-and-resume", "", "none", settings, build)
    execution = Execution(device="cpu", threads=1, seed=1)
    splits = Splits(data, data)
    train(
        recipe,
        settings,
        execution,
        folder,
        resume=True,
        progress=False,
        splits=splits,
        checkpoint_seconds=checkpoint_seconds,
    )


def same(a: object, b: object) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def records(folder: Path) -> list[dict[str, object]]:
    """The metrics without what the clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def newest(folder: Path) -> int:
    """Step of the newest checkpoint that stands, or 0."""
    try:
        return max((step for step, _ in standing(folder)), default=0)
    except FileNotFoundError:  # not begun, or a name vanished while it was read
        return 0


def kill_once(folder: Path, steps: int, chance: random.Random) -> bool:
    """Start or resume the training and kill it; False if it came to its end first.

    Most moments lie after a first new checkpoint has been seen; one in five lies at the start of the process.
    """
    before = newest(folder)
    command = [sys.executable, __file__, "--child", str(folder), "--steps", str(steps)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, 4))
        else:
            deadline = time.monotonic() + PATIENCE
            while newest(folder) == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.5))
        ended = process.poll()
    finally:
        process.kill()
        error = process.communicate()[1].decode()
    if ended not in (None, 0):
        raise SystemExit(f"the training failed by itself: {error}")
    return process.returncode == -signal.SIGKILL


def check_standing(folder: Path) -> int:
    """Read every checkpoint that stands; a damaged one ends the script with its error. Returns how many there are."""
    found = standing(folder) if folder.exists() else []
    for step, path in found:
        read(path, step)
    return len(found)


def check_end(folder: Path, reference: Checkpoint, reference_records: list[dict[str, object]]) -> None:
    """Compare a finished run with the uninterrupted one."""
    end = load(folder)
    assert end is not None
    assert end.step == reference.step
    assert same(end.model, reference.model), "the weights differ"
    for name in ("optimizer", "scheduler", "random"):
        assert same(end.state[name], reference.state[name]), f"the state of the {name} differs"
    assert records(folder) == reference_records, "the metrics differ"


def main(arguments: list[str] | None = None) -> None:
    """Run the whole trial and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20, help="how many kills")
    parser.add_argument("--steps", type=int, default=200, help="steps of a training, a multiple of 10")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2), "big"), help="of the moments")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        run(options.child, options.steps, checkpoint_seconds=0)
        return
    started, chance = time.monotonic(), random.Random(options.seed)
    kills = finished = checkpoints = during_writing = 0
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        run(root / "reference", options.steps, checkpoint_seconds=1e9)
        reference, reference_records = load(root / "reference"), records(root / "reference")
        assert reference is not None
        while kills < options.moments:
            folder = root / f"run-{finished}"
            if kill_once(folder, options.steps, chance):
                kills += 1
                checkpoints += check_standing(folder)
                during_writing += folder.exists() and any(folder.glob("*.partial"))
            else:
                check_end(folder, reference, reference_records)
                finished += 1
        folder = root / f"run-{finished}"
        run(folder, options.steps, checkpoint_seconds=0)
        check_end(folder, reference, reference_records)
    sys.stdout.write(
        f"{kills} kills (seed {options.seed}), {during_writing} of them while a file was being written: "
        f"{checkpoints} checkpoints stood afterwards, all whole; {finished + 1} runs ended, all bit for bit as the "
        f"uninterrupted one; {time.monotonic() - started:.0f} s\n"
    )


if __name__ == "__main__":
    main()

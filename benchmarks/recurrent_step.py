"""The recurrent part of `perturbation_step.py`: activity-based node perturbation beside the authors' code.

The peer is github.com/jesusgf96/NP_RNNs at commit 0a33229:

    git clone https://github.com/jesusgf96/NP_RNNs
    git -C NP_RNNs checkout 0a33229c2bc114ad5ebb24132e34b8ac56384f85

- "sequence": its `RNN.node_perturbation_activity` on one sequence of copying memory (10-500-10, 210 steps), with SGD,
  beside ours with torch's SGD; both rollouts, the update, and no evaluation. "Decorrelated" adds the update of the
  hidden decorrelation, which its function for profiling has.
- "online": its `training_mackey_glass`, which updates after every time step, on batches of ten series (1-500-1),
  beside ours with as many windows as steps. Of its loops the first takes some steps, and that for testing none. Stubbed
  are Weights & Biases, tensorflow, which it imports for another task, and the progress bar; no file of its is changed.

Noise, σ and the number of noisy rollouts, one, are the same; plain float32. The sides take turns.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Row, compare, interleave, spread
from beyondprop.data.sequences import copying_memory, mackey_glass
from beyondprop.networks.recurrent import VanillaRNN
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation
from peers._common import check_commit

COMMIT = "0a33229c2bc114ad5ebb24132e34b8ac56384f85"
PEER = f"jesusgf96/NP_RNNs@{COMMIT[:7]}"
SIGMA, RATE = 1e-3, 1e-4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class RecurrentSize:
    """What is measured."""

    hidden: int = 500
    length: int = 100
    delay: int = 10
    series: int = 10
    steps: int = 50


def import_peer(checkout: Path) -> Any:
    """Import its training with stubs for what is not measured."""
    check_commit(checkout, COMMIT)
    stubs = {name: types.ModuleType(name) for name in ("wandb", "tensorflow", "tensorflow.keras", "tqdm")}
    stubs["tensorflow.keras.datasets"] = types.ModuleType("tensorflow.keras.datasets")
    stubs["tensorflow.keras.datasets"].mnist = None  # type: ignore[attr-defined]
    stubs["tqdm"].tqdm = iter  # type: ignore[attr-defined]
    for name in ("init", "log", "finish"):
        setattr(stubs["wandb"], name, lambda *_, **__: None)
    present = {name: sys.modules[name] for name in stubs if name in sys.modules}
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    sys.modules.update(stubs)
    try:
        return importlib.import_module("training")
    finally:
        sys.path.remove(str(checkout))
        for name in stubs:
            del sys.modules[name]
        sys.modules.update(present)


def sequence_steps(size: RecurrentSize, peer: Any, *, decorrelated: bool) -> dict[str, Callable[[], object]]:
    """Make a step on one sequence of each side."""
    train, _ = copying_memory(size.length, size.delay, train=1, test=1)
    x, y = train.images, train.labels
    steps: dict[str, Callable[[], object]] = {"ours": our_step(size.hidden, x, y, decorrelated=decorrelated)}
    if peer is not None:
        theirs = peer.RNN([x.shape[2], size.hidden, y.shape[2]], 1, torch.tanh, nn.Identity(), decor_input=False)
        turned = [part.transpose(0, 1).contiguous() for part in (x, y)]

        def step() -> None:
            with torch.no_grad():
                theirs.reset_states()
                theirs.node_perturbation_activity(
                    *turned, nn.MSELoss(), lr=RATE, noise_std=SIGMA, decorrelation_prof=decorrelated
                )

        steps["theirs"] = step
    return steps


def online_steps(size: RecurrentSize, peer: Any) -> dict[str, Callable[[], object]]:
    """Make an epoch of some time steps, with an update after each, of each side."""
    train, _ = mackey_glass(task="recall", steps=size.steps, window=size.steps, series=size.series)
    step = our_step(size.hidden, train.images, train.labels, windows=size.steps)
    steps: dict[str, Callable[[], object]] = {"ours": step}
    if peer is not None:

        def epoch() -> None:
            taken = iter((size.steps, 0))  # for training, for testing
            peer.tqdm = lambda steps: steps[: next(taken)]
            with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                peer.training_mackey_glass(
                    net_structure=[1, size.hidden, 1],
                    act_func=torch.tanh,
                    act_func_out=nn.Identity(),
                    epochs=1,
                    algorithm="ANP",
                    batch_size=size.series,
                    lr_fwd=RATE,
                    decorrelation=False,
                    input_decorrelation=False,
                    lr_decor=RATE,
                    noise_std=SIGMA,
                    loss_name="mse",
                    opt="sgd",
                    device=CPU,
                    seed=0,
                )

        steps["theirs"] = epoch
    return steps


def our_step(
    hidden: int, x: Tensor, y: Tensor, *, decorrelated: bool = False, windows: int = 1
) -> Callable[[], object]:
    """Make a step of the library, through all phases of a batch."""
    torch.manual_seed(0)
    network = VanillaRNN(x.shape[2], hidden, y.shape[2], decorrelate=decorrelated)
    rule = NodePerturbation(
        network, nn.MSELoss(reduction="none"), sigma=SIGMA, windows=windows, decorrelation=RATE if decorrelated else 0.0
    )
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=RATE)

    def step() -> None:
        for phase in rule.phases:
            optimizer.zero_grad()
            rule.backward(x, y, phase)
            optimizer.step()

    return step


def rows(size: RecurrentSize, checkout: Path | None, rounds: int) -> list[Row]:
    """Measure all of it; the peer's values are None without a checkout."""
    peer = None if checkout is None else import_peer(checkout.resolve())
    sequence = f"ANP step, a sequence of {2 * size.length + size.delay} steps, {size.hidden} units, batch 1"
    online = f"ANP online, {size.hidden} units, batch {size.series}"
    return [
        measured(sequence, sequence_steps(size, peer, decorrelated=False), 1, "sequences", rounds),
        measured(f"{sequence}, decorrelated", sequence_steps(size, peer, decorrelated=True), 1, "sequences", rounds),
        measured(online, online_steps(size, peer), size.steps, "time_steps", rounds),
    ]


def measured(case: str, steps: Mapping[str, Callable[[], object]], count: int, unit: str, rounds: int) -> Row:
    """Time the sides in turns.

    Args:
        case: For the row.
        steps: `"ours"`, and `"theirs"` where the peer is there.
        count: What one call of a side does, in units.
        unit: What is counted.
        rounds: Turns.
    """
    seconds = interleave(steps, rounds, 1, CPU)
    rates = {name: count / spread(taken)[1] for name, taken in seconds.items()}
    return compare(case, f"{unit}_per_second", rates["ours"], PEER, rates.get("theirs"), less_is_better=False)

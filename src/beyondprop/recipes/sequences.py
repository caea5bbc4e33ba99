"""Sequence tasks: their settings, the networks that learn them, and what a network without learned memory reaches."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Schedule, Settings
from beyondprop.recipes.user_file import UserFile

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits
    from beyondprop.data.sets import Column
    from beyondprop.networks.recurrent import Recurrent
    from beyondprop.rule import Rule


ENOUGH = 4  # sequences for each weight of a filter that is fitted to one step of them


@dataclass(frozen=True, kw_only=True)
class SequenceSettings(Settings):
    """Settings of a recurrent network over sequences."""

    batch_size: int = 64
    """Sequences in a batch."""
    validation: int = 0
    """Sequences held out of the training set, the last ones, to choose settings by; 0 trains on all of it."""
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    lr_schedule: Schedule = "cosine"
    cell: Literal["vanilla", "gru"] = "vanilla"
    """tanh units, or gated ones."""
    hidden: int = 32
    """Length of the state."""
    bias: bool = False
    """Whether the layers have one; the gates always do."""
    taps: int = 16
    """Steps that the linear filter sees beside which the network is measured."""


@dataclass(frozen=True, kw_only=True)
class CopyingSettings(SequenceSettings):
    """Settings of copying memory."""

    length: int = 100
    """Symbols to be remembered."""
    delay: int = 10
    """Blank steps before they are to be repeated."""
    sequences: int = 6400
    """Of an epoch, all fresh."""

    def data(self) -> Splits:
        """Draw the sequences."""
        from beyondprop.data.sequences import copying_memory

        return copying_memory(self.length, self.delay, train=self.sequences)


@dataclass(frozen=True, kw_only=True)
class AddingSettings(SequenceSettings):
    """Settings of the adding problem."""

    length: int = 20
    """Steps of a sequence."""
    sequences: int = 6400
    """Of an epoch, all fresh."""
    bias: bool = True

    def data(self) -> Splits:
        """Draw the sequences."""
        from beyondprop.data.sequences import adding_problem

        return adding_problem(self.length, train=self.sequences)


@dataclass(frozen=True, kw_only=True)
class MackeyGlassSettings(SequenceSettings):
    """Settings of the Mackey-Glass series."""

    task: Literal["recall", "forecast"] = "forecast"
    """Whether the target lies behind the input, as in the paper's released code, or ahead of it."""
    shift: int = 15
    """Steps between input and target."""
    steps: int = 5000
    """Of a series."""
    window: int = 50
    """Length of the sequences into which the series are cut."""
    series: int = 4
    """Training series, and as many for testing."""
    bias: bool = True

    def data(self) -> Splits:
        """Integrate the series."""
        from beyondprop.data.sequences import mackey_glass

        return mackey_glass(task=self.task, shift=self.shift, steps=self.steps, window=self.window, series=self.series)


@dataclass(frozen=True, kw_only=True)
class CSVSettings(UserFile, SequenceSettings):
    """Settings of a forecast of a column of a CSV file."""

    holds = "CSV with column names in its first line and rows in the order of time"
    file: str = ""
    """Your own CSV: a line of column names, then rows in the order of time."""

    target: str = ""
    """Column to be forecast; by default the first that holds numbers."""
    columns: tuple[str, ...] = ()
    """Columns to be read; by default all that hold numbers."""
    ahead: int = 1
    """Rows between input and target."""
    window: int = 48
    """Length of the sequences into which the rows are cut."""
    bias: bool = True

    def data(self) -> Splits:
        """Read the file.

        Raises:
            UserError: None is named, or it cannot be used, or it is not the one of the checksum.
        """
        from beyondprop.data.sequences import csv_forecast

        file = self.checked_file()
        return csv_forecast(file, target=self.target, columns=self.columns, ahead=self.ahead, window=self.window)


def builder(make_rule: Callable[[Recurrent, Any], Rule]) -> Callable[[Any, Splits], Experiment]:
    """Make the build function of a rule that trains a sequence network.

    Args:
        make_rule: Puts the rule around the network; the second argument is the settings.
    """

    def build(settings: SequenceSettings, splits: Splits) -> Experiment:
        from beyondprop.networks import recurrent

        kind = recurrent.GatedRNN if settings.cell == "gru" else recurrent.VanillaRNN
        network = kind(
            splits.train.images.shape[2],
            settings.hidden,
            splits.train.labels.shape[2],
            decorrelate=getattr(settings, "decorrelation", 0) > 0,
            bias=settings.bias,
        )
        floors = baselines(splits, settings.taps)
        rule, column = make_rule(network, settings), getattr(splits.test, "column", None)
        files = partial(forecast, rule, column) if column is not None else None
        return Experiment(rule, measures=lambda _batches: floors, files=files)

    return build


def forecast(rule: Rule, column: Column, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, bytes]:
    """Predict a column of a user's file, in its own units: `forecast.csv` and `forecast.png`.

    Args:
        rule: That is trained.
        column: What is predicted.
        batches: Sequences of the file's rows, one after another.
    """
    import torch

    from beyondprop.rule import evaluating
    from beyondprop.training.curves import draw_forecast

    found: tuple[list[float], list[float]] = [], []
    with evaluating(rule), torch.inference_mode():
        for x, y in batches:
            for values, scaled in zip(found, (y, rule(x)), strict=True):
                values.extend((column.mean + column.deviation * scaled.double().flatten()).tolist())
    targets, predictions = found
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("row", column.name, "forecast"))
    writer.writerows(
        (column.row + index, f"{target:.7g}", f"{prediction:.7g}")
        for index, (target, prediction) in enumerate(zip(targets, predictions, strict=True))
    )
    picture = draw_forecast(targets, predictions, column.row, column.name)
    return {"forecast.csv": table.getvalue().encode(), "forecast.png": picture}


def baselines(splits: Splits, taps: int) -> dict[str, float]:
    """Measure on the test sequences what needs no recurrent network.

    Returns:
        `memoryless_mse`, of the best linear prediction from the present input, which for one-hot inputs is the best of
        all; `linear_filter_mse`, of that from the last `taps` inputs; and `target_variance`. The predictions are fitted
        to the training sequences, by least squares; near a sequence's beginning, where a tap has no input yet, each
        step has a filter of its own if there are sequences enough to fit one.
    """
    import torch

    from beyondprop.data.sequences import tapped

    found = {}
    for name, count in (("memoryless_mse", 1), ("linear_filter_mse", taps)):
        x, y = tapped(splits.train.images, count), splits.train.labels.double()
        given = tapped(splits.test.images, count)
        begun = min(count - 1, x.shape[1] - 1) if len(x) >= ENOUGH * x.shape[2] else 0
        error = torch.zeros(())
        for steps in (*(slice(step, step + 1) for step in range(begun)), slice(begun, None)):
            inputs, targets = x[:, steps].flatten(0, 1), y[:, steps].flatten(0, 1)
            ridge = 1e-9 * len(inputs) * torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
            weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)
            error = error + (given[:, steps] @ weights - splits.test.labels[:, steps]).square().sum()
        found[name] = float(error / splits.test.labels.numel())
    targets = splits.test.labels.double().flatten(0, 1)
    return found | {"target_variance": float(targets.var(dim=0, correction=0).mean())}

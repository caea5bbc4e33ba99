"""What the user sees of a training: a bar in a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from beyondprop.training.tracking import LOSSES, Totals


class Display:
    """A progress bar on stderr where that is a terminal, else a plain line at the end of every epoch.

    The bar is drawn when `update` is called, never from a thread of its own.

    Args:
        epochs: Of the whole training.
        steps: Of the whole training, or None while it is not known.
        shown: Whether to show anything.
        unit: What an epoch is called.
    """

    def __init__(self, epochs: int, steps: int | None, *, shown: bool, unit: str = "epoch") -> None:
        self._epochs, self.steps, self._shown, self._unit = epochs, steps, shown, unit
        self._accuracy = ""
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if shown and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}"),
            )
            self._bar = Progress(*columns, console=console, auto_refresh=False, expand=True)
            self._task = self._bar.add_task("", total=steps, figures="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()

    def update(self, totals: Totals, epoch: int, stage: str | None) -> None:
        """Draw the bar anew.

        Args:
            totals: Where the training stands.
            epoch: The present one, from 1.
            stage: The present one, or None.
        """
        if self._bar is None:
            return
        of_epoch = {name: sums.smoothed for name, sums in totals.losses.items() if sums.epoch_images}
        figures = _told(of_epoch)
        figures += [self._accuracy] if figures else []
        if totals.epoch_seconds > 0:
            figures.append(f"{totals.epoch_images / totals.epoch_seconds:,.0f} samples/s")
        if self.steps is not None and totals.step > 0:
            left = totals.seconds / totals.step * max(self.steps - totals.step, 0)
            figures.append(f"{timedelta(seconds=round(left))} left")
        self._draw(totals.step, self.steps, epoch, stage, figures)

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Take note of an epoch's record, as it stands in metrics.jsonl."""
        self._remember(record)
        losses = _told(record)
        self._say(record, *losses, *[self._accuracy] * bool(losses), f"{record['images_per_second']:,.0f} samples/s")

    def end_pass(self, record: dict[str, Any], seconds: float) -> None:
        """Take note of a solver's pass: most of its time may be in what comes after the last batch.

        Args:
            record: As it stands in metrics.jsonl; its `seconds` are those of all passes so far.
            seconds: Of this one.
        """
        self._remember(record)
        number = record["epoch"]
        left = timedelta(seconds=round(record["seconds"] / number * (self._epochs - number)))
        figures = [self._accuracy, f"{seconds:.1f} s", f"{left} left"]
        self._say(record, *figures)
        self._draw(number, self._epochs, number, record["stage"], figures)

    def _draw(self, completed: int, total: int | None, epoch: int, stage: str | None, figures: list[str]) -> None:
        """Bring the bar up to date, where there is one."""
        if self._bar is None:
            return
        self._bar.update(
            self._task,
            completed=completed,
            total=total,
            description=f"{self._unit} {epoch}/{self._epochs}" + (f" {stage}" if stage is not None else ""),
            figures="  ".join(filter(None, figures)),
        )
        self._bar.refresh()

    def _remember(self, record: dict[str, Any]) -> None:
        names = ("validation_accuracy", "held_out_accuracy", "train_accuracy")
        accuracies = [(name, record[name]) for name in names if name in record]
        self._accuracy = "".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in accuracies)

    def _say(self, record: dict[str, Any], *figures: str) -> None:
        """Write a line, where there is no bar."""
        if self._shown and self._bar is None:
            stage = f" {record['stage']}" if "stage" in record else ""
            told = "  ".join(filter(None, [f"{self._unit} {record['epoch']}/{self._epochs}{stage}", *figures]))
            sys.stderr.write(f"{told}\n")


def _told(figures: Mapping[str, Any]) -> list[str]:
    """The losses among figures."""
    return [f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in LOSSES if name in figures]

"""What a training says of itself: losses, time, metrics.jsonl, curves, TensorBoard."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

GROWTH = 1e3  # of a loss: beyond this it diverges, though every number is finite
SMOOTHING = 0.98  # a loss counts for about the next fifty steps
STEP_RECORDS = 2000  # about as many as a picture can show
LOSSES = ("loss", "feedback_loss")  # of steps that teach the network, and of those in which its feedback learns alone
COMPARISONS = ("alignment", "gauss_newton")  # records of layers' updates beside others, each drawn by itself
DRAWING_PAUSE = 30.0  # seconds between two pictures while the training runs


@dataclass
class Sums:
    """One loss, as it is summed up.

    Attributes:
        epoch_loss, epoch_images: Of the present epoch; the loss is a sum over the images.
        recent_loss, recent_steps: Since the last record of a step.
        smoothed: Exponential moving average.
    """

    epoch_loss: float = 0.0
    epoch_images: int = 0
    recent_loss: float = 0.0
    recent_steps: int = 0
    smoothed: float | None = None

    def add(self, loss: float, images: int) -> None:
        """Count a step's."""
        self.epoch_loss += loss * images
        self.epoch_images += images
        self.recent_loss += loss
        self.recent_steps += 1
        self.smoothed = loss if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss


@dataclass
class Totals:
    """Where a training stands and what it has summed up so far; all of it is in the checkpoint.

    Attributes:
        passes: Passes over the data that are finished, their evaluation included.
        batch: Batches of the present pass that were trained on.
        step: Batches that were trained on in all.
        images: Samples that were trained on in all.
        seconds: Spent in steps and in making batches.
        epoch_images, epoch_seconds: Of the present epoch.
        losses: What is told of losses, by the name that records have for them; see `LOSSES`.
        learning_rate: Of the last step.
        peak_memory_bytes: Largest seen in any piece of the run.
    """

    passes: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    losses: dict[str, Sums] = field(default_factory=dict)
    learning_rate: float = 0.0
    peak_memory_bytes: int = 0

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Self:
        """From a checkpoint."""
        known = {each.name for each in fields(cls)}
        totals = cls(**{name: value for name, value in saved.items() if name in known})
        totals.losses = {name: Sums(**sums) for name, sums in saved.get("losses", {}).items()}
        if "epoch_loss" in saved:  # of a version that knew one loss
            totals.losses["loss"] = Sums(**{each.name: saved[each.name] for each in fields(Sums)})
        return totals


@dataclass(frozen=True)
class _Step:
    """One batch whose loss has not been read from the device yet."""

    number: int
    epoch: int
    stage: str | None
    losses: dict[str, Tensor]
    images: int
    learning_rate: float


class Tracker:
    """Collects losses without waiting for the device, and writes them down when they are read.

    Args:
        run: Where to write; None only keeps the records in memory.
        total_steps: Of the whole training, or None where it is not known.
        tensorboard: Whether to write scalars for TensorBoard too.

    Attributes:
        totals: See there.
        records: What metrics.jsonl holds.

    Raises:
        UserError: TensorBoard is wanted and not installed, or there is no run folder to write to.
    """

    def __init__(self, run: RunFolder | None, *, total_steps: int | None, tensorboard: bool = False) -> None:
        self.totals = Totals()
        self.records: list[dict[str, Any]] = []
        self.total_steps = total_steps
        # Every so many steps a record; a number that is the same when the run is resumed.
        self._interval = 10 if total_steps is None else max(1, round(total_steps / STEP_RECORDS))
        self._run = run
        self._unread: list[_Step] = []
        self._since = self._drawn_at = time.perf_counter()
        self._told_of_growth = False
        self._tensorboard = tensorboard
        self._writer = _summary_writer(run) if tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def unread(self) -> int:
        """Number of losses that wait on the device."""
        return len(self._unread)

    def restore(self, totals: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.totals = Totals.restored(totals)
        if self._run is not None:
            self.records = self._run.metrics()

    def saved(self) -> dict[str, Any]:
        """What `restore` takes."""
        return asdict(self.totals)

    def start_clock(self) -> None:
        """Count seconds from now on; what came before was no training."""
        self._since = time.perf_counter()

    def step(
        self, losses: dict[str, Tensor], images: int, *, epoch: int, stage: str | None, learning_rate: float
    ) -> None:
        """Count a batch that was trained on; `losses` by their names in `LOSSES`."""
        self.totals.step += 1
        self.totals.batch += 1
        self.totals.images += images
        self.totals.epoch_images += images
        self.totals.learning_rate = learning_rate
        self._unread.append(_Step(self.totals.step, epoch, stage, losses, images, learning_rate))

    def read(self) -> None:
        """Read the losses from the device, which waits for it, and write the records that are due.

        Raises:
            NonFiniteError: One is NaN or infinite; the records before it are written.
        """
        steps, self._unread = self._unread, []
        unread = [loss for step in steps for loss in step.losses.values()]
        losses = iter(torch.stack(unread).tolist() if unread else [])
        now = time.perf_counter()
        self.totals.seconds += now - self._since
        self.totals.epoch_seconds += now - self._since
        self._since = now
        records = []
        try:
            for step in steps:
                found = {name: next(losses) for name in step.losses}
                for name, loss in found.items():
                    if not math.isfinite(loss):
                        raise NonFiniteError(
                            f"the {name.replace('_', ' ')} is {loss} at step {step.number}: check the data, or lower "
                            "the learning rate"
                        )
                records += self._count(step, found)
        finally:
            self._write(records)

    def end_epoch(self, measured: dict[str, float], *, epoch: int, stage: str | None) -> dict[str, Any]:
        """Record an epoch and begin the next one's sums; warn, once, of a loss that has grown beyond `GROWTH`.

        Args:
            measured: Accuracies and such, by name.
            epoch: Its number, from 1.
            stage: The stage to which the epoch belongs, or None.
        """
        totals = self.totals
        record = {
            **_where(totals.step, epoch, stage),
            **{name: sums.epoch_loss / sums.epoch_images for name, sums in totals.losses.items() if sums.epoch_images},
            **measured,
            "learning_rate": totals.learning_rate,
            "images_per_second": totals.epoch_images / max(totals.epoch_seconds, 1e-9),
            "seconds": totals.seconds,
        }
        totals.epoch_images, totals.epoch_seconds = 0, 0.0
        for sums in totals.losses.values():
            sums.epoch_images, sums.epoch_loss = 0, 0.0
        self._write([record])
        self._warn_of_growth(record.get("loss", 0.0))
        return record

    def add_comparison(self, kind: str, compared: Mapping[str, Any], *, epoch: int, stage: str | None) -> None:
        """Record how the last step's updates stood to others, by layer.

        Args:
            kind: One of `COMPARISONS`.
            compared: By layer, a dataclass of figures.
            epoch: Of the step.
            stage: Likewise.
        """
        layers = {name: asdict(found) for name, found in compared.items()}
        self._write([{**_where(self.totals.step, epoch, stage), kind: layers}])

    def draw(self, *, final: bool) -> None:
        """Draw the curves, if the last picture is old or this is the final one."""
        now = time.perf_counter()
        if self._run is not None and (final or now - self._drawn_at > DRAWING_PAUSE):
            # matplotlib takes a second to import
            from beyondprop.training.curves import draw_comparison, draw_curves  # noqa: PLC0415

            title = str(self._run.settings.get("recipe", self._run.path.name))
            self._run.write_curves(draw_curves(self.records, title))
            for kind in COMPARISONS:
                if any(kind in record for record in self.records):
                    self._run.write_comparison(kind, draw_comparison(kind, self.records, title))
            self._drawn_at = time.perf_counter()

    def _warn_of_growth(self, loss: float) -> None:
        if self._told_of_growth:
            return
        first = next((record["loss"] for record in self.records if "loss" in record), loss)
        if loss > GROWTH * max(1.0, abs(first)):
            logger.warning(
                "the loss has grown from %.3g to %.3g: the training diverges; lower the learning rate", first, loss
            )
            self._told_of_growth = True

    def _count(self, step: _Step, losses: dict[str, float]) -> list[dict[str, Any]]:
        for name, loss in losses.items():
            self.totals.losses.setdefault(name, Sums()).add(loss, step.images)
        if step.number % self._interval:
            return []
        record = _where(step.number, step.epoch, step.stage)
        for name, sums in self.totals.losses.items():
            if sums.recent_steps:
                record[name] = sums.recent_loss / sums.recent_steps
            sums.recent_loss, sums.recent_steps = 0.0, 0
        return [record | {"learning_rate": step.learning_rate}]

    def _write(self, records: list[dict[str, Any]]) -> None:
        self.records += records
        if self._run is not None:
            self._run.append_metrics(records)
        if self._writer is None:
            return
        for record in records:
            end = "epoch/" if "seconds" in record else "step/"
            for name, value in record.items():
                if name not in ("epoch", "step", "stage", *COMPARISONS):
                    self._writer.add_scalar(end + name, value, record["step"])
            for kind in COMPARISONS:
                for layer, figures in record.get(kind, {}).items():
                    for name, value in figures.items():
                        if value is not None:
                            self._writer.add_scalar(f"{kind}/{name}/{layer}", value, record["step"])


def _where(step: int, epoch: int, stage: str | None) -> dict[str, Any]:
    return {"step": step, "epoch": epoch} | ({} if stage is None else {"stage": stage})


def _summary_writer(run: RunFolder | None) -> Any:
    if run is None:
        raise UserError("TensorBoard needs a run folder to write to: give `run`")
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        raise UserError("TensorBoard is not installed: pip install tensorboard") from error
    step = run.checkpoint.step if run.checkpoint else 0
    return SummaryWriter(run.path / "tensorboard", purge_step=step + 1)  # what a kill has undone is hidden

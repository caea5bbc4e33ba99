"""One training under way: steps, passes, ends of epochs, checkpoints, going on from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from beyondprop.errors import DeviceError, NonFiniteError, RunError, UserError
from beyondprop.measure.alignment import alignment
from beyondprop.measure.gauss_newton import gauss_newton_alignment
from beyondprop.rule import Rule
from beyondprop.training.averaging import WeightAverage
from beyondprop.training.callbacks import Callback
from beyondprop.training.evaluation import autocast, evaluate
from beyondprop.training.interrupts import Interrupted, StopSignals
from beyondprop.training.memory import peak_memory_bytes
from beyondprop.training.progress import Display
from beyondprop.training.random_state import RandomState
from beyondprop.training.run_folder import RunFolder
from beyondprop.training.sources import Source
from beyondprop.training.tracking import Totals, Tracker

REFRESH_SECONDS = 0.25  # between two readings of the loss: each waits until the device has caught up
MOST_UNREAD = 1000
SHORTEST_PAUSE = 1.0  # seconds between the checkpoints of epochs: short epochs would spend their time on the disk


class Pass(NamedTuple):
    """One pass over the data: of which epoch (from 1), for which stage."""

    epoch: int
    stage: str | None


class Team(Protocol):
    """One of several processes that train a rule together; its `backward` takes the place of the rule's.

    Attributes:
        in_step: Whether the processes wait for each other at every step. They can then go on together only from one and
            the same step, and so save at the end of each pass and never in between.
    """

    in_step: bool

    def backward(self, x: Tensor, y: Tensor, phase: str | None = None) -> Tensor:
        """As `Rule.backward`, and whatever the processes have to tell each other."""


@dataclass(kw_only=True)
class Trainer:
    """The state of one call of `fit`, whose arguments these are; `train` does the work."""

    rule: Rule
    source: Source
    plan: list[Pass]
    optimizer: Optimizer
    scheduler: LRScheduler | None
    validation: Source | None
    inference: dict[str, Any] | None
    precision: str
    average: WeightAverage | None
    run: RunFolder | None
    checkpoint_seconds: float
    tracker: Tracker
    display: Display
    signals: StopSignals
    alignment_every: int = 0
    gauss_newton_every: int = 0
    callbacks: Sequence[Callback] = ()
    team: Team | None = None
    pass_start: dict[str, Tensor] = field(default_factory=dict)
    saved_step: int = 0

    def __post_init__(self) -> None:
        self.device = self.source.device
        self.in_step = self.team is not None and self.team.in_step
        self.random = RandomState(self.device, self.source.generator)
        self.saved_at = self.refreshed_at = time.perf_counter()

    def train(self) -> None:
        """Train from where the run stands to the end of the plan."""
        if self.run is not None:
            self.run.require_space(checkpoint_bytes(self.rule, self.average))
            self._restore(self.run)
        self.rule.train()
        try:
            for number in range(self.totals.passes, len(self.plan)):
                self._pass(number)
                self._end_pass(number)
        except Interrupted:
            if not self.in_step:
                self._save()
            self.tracker.draw(final=True)
            saved = f"checkpoint of step {self.saved_step} stands" if self.in_step else "checkpoint is saved"
            message = f"interrupted after {self.totals.step} steps; the {saved}"
            raise Interrupted(message) from None
        except DeviceError:
            if not self.in_step:
                self._save()  # a device that fails leaves its rule as it was before the step
            raise
        except UserError:
            self.tracker.read()  # what led to it stands in the metrics
            raise
        self._save()
        if self.average is not None:
            self.average.apply()
        self.tracker.draw(final=True)

    @property
    def totals(self) -> Totals:
        """Where the training stands."""
        return self.tracker.totals

    def _pass(self, number: int) -> None:
        epoch, stage = self.plan[number]
        self.rule.stage = stage
        if self.totals.batch == 0:
            self.pass_start = self.random.get()
            batches = self.source.open(number)
        else:  # a shuffling iterable has to draw the same order once more to go on in the middle of it
            now = self.random.get()
            self.random.set(self.pass_start)
            batches = self.source.open(number, self.totals.batch)
            self.random.set(now)
        self.tracker.start_clock()
        for x, y in batches:
            self._step(x, y, epoch, stage)
            self._after_step(epoch, stage)
        if self.totals.batch == 0 and number == 0:
            raise UserError("there is nothing to train on: the batches are empty")
        if self.totals.batch == 0:
            raise UserError(
                f"the batches ran out after {number} of {len(self.plan)} passes over the data: a generator gives its "
                "batches once; give a list, a DataLoader, or the generator function itself"
            )

    def _step(self, x: Tensor, y: Tensor, epoch: int, stage: str | None) -> None:
        number = self.totals.step + 1
        for callback in self.callbacks:
            callback.before_step(number, self.optimizer)
        compared: dict[str, dict[str, Any]] = {}
        losses: dict[str, Tensor] = {}
        for phase in self.rule.phases:
            for kind, every, measure in (
                ("alignment", self.alignment_every, alignment),
                ("gauss_newton", self.gauss_newton_every, gauss_newton_alignment),
            ):
                if every and (number == 1 or number % every == 0) and self.rule.teaches_network(phase):
                    compared[kind] = compared.get(kind, {}) | self._compared(measure, x, y, phase)
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.precision):
                loss = (self.rule if self.team is None else self.team).backward(x, y, phase)
            if self.rule.teaches_network(phase):
                losses["loss"] = loss
            else:
                losses.setdefault("feedback_loss", loss)  # of the first phase: before it learns from this batch
            self.optimizer.step()
        for callback in self.callbacks:
            callback.after_step(number, self.optimizer)
        if self.average is not None:
            self.average.update()
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None:
            self.scheduler.step()
        self.tracker.step(losses, len(x), epoch=epoch, stage=stage, learning_rate=learning_rate)
        for kind, layers in compared.items():
            if not layers:
                continue
            self.tracker.read()  # so that the step's own record comes first
            self.tracker.add_comparison(kind, layers, epoch=epoch, stage=stage)

    def _compared(
        self, measure: Callable[..., dict[str, Any]], x: Tensor, y: Tensor, phase: str | None
    ) -> dict[str, Any]:
        """Compare with another what the next step would be, outside the training's time."""
        self.tracker.read()
        with autocast(self.device, self.precision):  # one of its own: it keeps what it has cast
            found = measure(self.rule, x, y, phase)
        self.tracker.start_clock()
        return found

    def _after_step(self, epoch: int, stage: str | None) -> None:
        now = time.perf_counter()
        if now - self.refreshed_at > REFRESH_SECONDS or self.tracker.unread >= MOST_UNREAD:
            self.tracker.read()
            self.display.update(self.totals, epoch, stage)
            self.refreshed_at = time.perf_counter()
        self._stop_if_told()
        if not self.in_step and time.perf_counter() - self.saved_at >= self.checkpoint_seconds:
            self._save()

    def _end_pass(self, number: int) -> None:
        epoch, stage = self.plan[number]
        if number + 1 == len(self.plan) or self.plan[number + 1].epoch > epoch:
            self.tracker.read()
            stages = {one.stage for one in self.plan if one.epoch == epoch}
            trained = stage if len(stages) == 1 else None  # else the epoch belongs to all of them
            self.display.end_epoch(self.tracker.end_epoch(self._measure(number), epoch=epoch, stage=trained))
        self.display.steps = self.totals.step // (number + 1) * len(self.plan)
        self.totals.passes, self.totals.batch = number + 1, 0
        pause = time.perf_counter() - self.saved_at
        if self.in_step or self.saved_step == 0 or pause >= min(SHORTEST_PAUSE, self.checkpoint_seconds):
            self._save()
        self.tracker.draw(final=False)

    def _measure(self, number: int) -> dict[str, float]:
        """Accuracy (and, of held-out samples, loss) after an epoch."""
        if self.team is not None:  # no process has the whole network before the end
            return {}
        source, name = self.validation, "validation"
        if source is None:
            source, name = Source(self.source.sample(number), self.device), "train"
        with self._averaged():
            figures = evaluate(
                self.rule, lambda: self._stoppable(source), inference=self.inference, precision=self.precision
            )
        kept = ("accuracy", "loss") if name == "validation" else ("accuracy",)  # the training loss stands there already
        return {f"{name}_{figure}": figures[figure] for figure in kept if figure in figures}

    def _averaged(self) -> AbstractContextManager[None]:
        """The rule with the weights by which it predicts."""
        return nullcontext() if self.average is None else self.average.applied()

    def _stoppable(self, source: Source) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in source.open(0):
            self._stop_if_told()
            yield pair

    def _stop_if_told(self) -> None:
        if self.signals.received:
            raise Interrupted

    def _save(self) -> None:
        """Save a checkpoint, unless the one of this step stands."""
        self.tracker.read()
        self.totals.peak_memory_bytes = max(self.totals.peak_memory_bytes, peak_memory_bytes(self.device))
        if self.run is not None and self.totals.step != self.saved_step:
            self._require_finite()
            state = {
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
                "random": self.random.get(),
                "pass_start": self.pass_start,
                "stage": self.rule.stage,
                "totals": self.tracker.saved(),
                "average": self.average.saved() if self.average is not None else None,
            }
            with self._averaged():  # the stored weights are those that predict
                self.run.save_checkpoint(self.totals.step, self.rule, state)
            self.saved_step = self.totals.step
        self.saved_at = time.perf_counter()
        self.tracker.start_clock()

    def _require_finite(self) -> None:
        """A step can break the weights after a loss that was finite; the checkpoint before it is worth more."""
        broken = next((name for name, p in self.rule.named_parameters() if not p.isfinite().all()), None)
        if broken is not None:
            raise NonFiniteError(
                f"{broken} holds NaN or infinity after step {self.totals.step}: lower the learning rate; "
                "the last checkpoint is from before"
            )

    def _restore(self, run: RunFolder) -> None:
        saved = run.checkpoint
        if saved is None:
            return
        saved.restore_model(self.rule)
        average = saved.state.get("average")  # not in checkpoints from before there was one
        if self.average is not None and average is not None:
            self.average.restore(average)
        elif self.average is not None or average is not None:
            made = "with" if average else "without"
            raise RunError(f"the checkpoint in {run.path} is of a training {made} averaged weights: give the same ema")
        try:
            self.optimizer.load_state_dict(saved.state["optimizer"])
        except (ValueError, KeyError) as error:
            raise RunError(f"the checkpoint in {run.path} is of another optimizer: {error}") from error
        if (self.scheduler is None) != (saved.state["scheduler"] is None):
            raise RunError(f"the checkpoint in {run.path} is of another learning-rate schedule")
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved.state["scheduler"])
        self.random.set(saved.state["random"])
        self.pass_start = saved.state["pass_start"]
        self.tracker.restore(saved.state["totals"])
        self.saved_step = saved.step


def checkpoint_bytes(rule: Rule, average: WeightAverage | None) -> int:
    """Upper estimate of the disk space that training takes: two checkpoints with two moments for each parameter."""
    weights = sum(v.nbytes for v in rule.state_dict().values() if isinstance(v, Tensor))
    moments = 2 * sum(parameter.nbytes for parameter in rule.parameters())
    return 2 * (weights + moments + (average.nbytes if average is not None else 0)) + 16 * 2**20

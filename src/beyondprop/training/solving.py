"""Fitting a solver: pass after pass over the data, with progress, metrics and a checkpoint after each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from beyondprop.solver import Solver
from beyondprop.training.evaluation import autocast
from beyondprop.training.interrupts import Interrupted, StopSignals
from beyondprop.training.loop import FitResult
from beyondprop.training.memory import peak_memory_bytes
from beyondprop.training.progress import Display
from beyondprop.training.random_state import RandomState
from beyondprop.training.run_folder import RunFolder
from beyondprop.training.sources import Source, device_of
from beyondprop.training.tracking import Totals
from beyondprop.training.trainer import REFRESH_SECONDS


def solve(
    solver: Solver,
    batches: Any,
    *,
    precision: str = "float32",
    run: RunFolder | None = None,
    progress: bool = True,
) -> FitResult:
    """Fit a solver; `solver.fit_batches` with a run folder.

    Args:
        solver: On the device where it is to be fitted.
        batches: As in `beyondprop.training.fit`. Pass n reads epoch n, which goes on alike after an interruption.
        precision: `"float32"`, or `"bf16"` for autocast to bfloat16 around the solver.
        run: Where metrics and checkpoints go; the fit goes on with the first pass that its checkpoint has not seen
            the end of. None keeps nothing.
        progress: Whether to show a bar for each pass (in a terminal) or a line (elsewhere) on stderr.

    Returns:
        Counts, time (solving included) and one record for each pass.

    Raises:
        UserError: As `Solver.fit_batches`.
        NonFiniteError: As `Solver.fit_batches`; what the passes before have found is saved.
        RunError: The disk is full or refuses, or the checkpoint is of another solver.
        Interrupted: Ctrl-C or SIGTERM, where there is a run; between two batches.
    """
    source = Source(batches, device_of(solver))
    with (
        Display(len(solver.passes), source.length, shown=progress, unit="pass") as display,
        StopSignals(active=run is not None) as signals,
    ):
        fitting = _Fitting(solver, source, precision, run, display, signals)
        fitting.work()
    totals = fitting.totals
    return FitResult(totals.step, totals.images, totals.seconds, totals.peak_memory_bytes, fitting.records)


@dataclass
class _Fitting:
    """The state of one call of `solve`."""

    solver: Solver
    source: Source
    precision: str
    run: RunFolder | None
    display: Display
    signals: StopSignals
    totals: Totals = field(default_factory=Totals)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = RandomState(self.source.device, self.source.generator)

    def work(self) -> None:
        """Fit from where the run stands."""
        if self.run is not None:
            weights = sum(v.nbytes for v in self.solver.state_dict().values() if isinstance(v, Tensor))
            self.run.require_space(2 * weights + 16 * 2**20)
            self._restore(self.run)
        passes = self.solver.passes
        while (number := self.totals.passes) < len(passes):
            before = self.random.get()
            try:
                self._pass(number)
            except Interrupted:
                if number == 0:  # else the checkpoint of the pass before stands
                    self.random.set(before)
                    self._save()
                raise Interrupted(
                    f"interrupted in pass {number + 1} of {len(passes)}, {passes[number]}, which begins again"
                ) from None
            self._save()

    def _pass(self, number: int) -> None:
        part, began = self.solver.passes[number], time.perf_counter()
        present = Totals()
        with autocast(self.source.device, self.precision):
            self.solver.run_pass(part, self._counted(number, part, present))
        if self.source.device.type == "cuda":
            torch.cuda.synchronize(self.source.device)
        seconds = time.perf_counter() - began
        totals = self.totals
        totals.passes = number + 1
        totals.step += present.step
        totals.images += present.images
        totals.seconds += seconds
        record = {
            "step": totals.step,
            "epoch": number + 1,
            "stage": part,
            "images": present.images,
            "images_per_second": present.images / max(seconds, 1e-9),
            "seconds": totals.seconds,
            **self.solver.figures(part),
        }
        self.records.append(record)
        if self.run is not None:
            self.run.append_metrics([record])
        self.display.end_pass(record, seconds)

    def _counted(self, number: int, part: str, present: Totals) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a pass; before each one the user may stop it."""
        began = refreshed = time.perf_counter()
        for x, y in self.source.open(number):
            if self.signals.received:
                raise Interrupted
            present.step, present.images = present.step + 1, present.images + len(x)
            yield x, y
            now = time.perf_counter()
            if now - refreshed > REFRESH_SECONDS:
                present.epoch_images, present.epoch_seconds, present.seconds = present.images, now - began, now - began
                self.display.update(present, number + 1, part)
                refreshed = now
        if self.signals.received:  # solving may take long
            raise Interrupted

    def _save(self) -> None:
        totals = self.totals
        totals.peak_memory_bytes = max(totals.peak_memory_bytes, peak_memory_bytes(self.source.device))
        if self.run is not None:
            state = {"stage": None, "totals": asdict(totals), "random": self.random.get()}
            self.run.save_checkpoint(totals.step, self.solver, state)

    def _restore(self, run: RunFolder) -> None:
        saved = run.checkpoint
        if saved is None:
            return
        saved.restore_model(self.solver)
        self.totals = Totals.restored(saved.state["totals"])
        self.random.set(saved.state["random"])
        self.records = run.metrics()

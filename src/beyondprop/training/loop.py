"""The training loop: stages, epochs, batches, phases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from beyondprop.checks import check
from beyondprop.errors import UserError
from beyondprop.rule import Rule
from beyondprop.training.averaging import WeightAverage
from beyondprop.training.callbacks import Callback
from beyondprop.training.interrupts import StopSignals
from beyondprop.training.progress import Display
from beyondprop.training.run_folder import RunFolder
from beyondprop.training.sources import Source, device_of
from beyondprop.training.tracking import Tracker
from beyondprop.training.trainer import Pass, Team, Trainer

logger = logging.getLogger("beyondprop.training")


@dataclass(frozen=True)
class FitResult:
    """What a training was, over all pieces of a resumed run.

    Attributes:
        steps: Batches trained on.
        images: Samples trained on, each pass counted.
        seconds: Spent in training steps and in making batches; evaluation, checkpoints and pictures are not counted.
        peak_memory_bytes: Of torch on cuda, of the whole process elsewhere.
        epochs: One record for each epoch, as in metrics.jsonl.
    """

    steps: int
    images: int
    seconds: float
    peak_memory_bytes: int
    epochs: list[dict[str, Any]]

    @property
    def images_per_second(self) -> float:
        """Samples trained on in a second."""
        return self.images / max(self.seconds, 1e-9)


def fit(
    rule: Rule,
    batches: Any,
    *,
    optimizer: Optimizer,
    epochs: int,
    scheduler: LRScheduler | None = None,
    validation: Any = None,
    inference: dict[str, Any] | None = None,
    precision: str = "float32",
    ema: float = 0.0,
    run: RunFolder | None = None,
    checkpoint_seconds: float = 120.0,
    progress: bool = True,
    tensorboard: bool = False,
    alignment_every: int = 0,
    gauss_newton_every: int = 0,
    callbacks: Sequence[Callback] = (),
    team: Team | None = None,
) -> FitResult:
    """Train a rule.

    For each stage of the rule, for each batch, for each phase: `zero_grad`, `rule.backward`, `step`; the scheduler
    steps once a batch.

    Args:
        rule: On the device where it is to be trained.
        batches: Pairs (x, y): a list, a DataLoader, `data.Batches`, or a function that returns an iterator (a generator
            function). Moved to the rule's device.
        optimizer: Any, over the rule's parameters.
        epochs: Passes over the data; `rule.passes` tells how many of them each stage takes.
        scheduler: Of the learning rate, one step a batch, without arguments. It goes on through all of the rule's
            stages: `len(rule.passes(epochs))` times the number of batches.
        validation: As `batches`; measured at the end of every epoch. Without it, the accuracy is measured on about the
            first thousand training samples and called train accuracy.
        inference: Options of `rule(x, **inference)` where accuracy is measured.
        precision: `"float32"`, or `"bf16"` for autocast to bfloat16 around the rule.
        ema: Decay of an exponential moving average of the weights; 0 makes none. The average takes the weights' place
            where accuracy is measured, in the checkpoint, and in the rule when `fit` returns; see
            `beyondprop.training.averaging.WeightAverage`.
        run: Where metrics, checkpoints and curves go; the training goes on from its checkpoint. None keeps nothing.
        checkpoint_seconds: Longest time between two checkpoints; there is one at the end of an epoch as well, unless
            the last is less than a second old. 0 saves one after every step.
        progress: Whether to show a bar (in a terminal) or a line an epoch (elsewhere) on stderr.
        tensorboard: Whether to write scalars for TensorBoard into the run folder too.
        alignment_every: At the first step and at every so many steps, each layer's update is compared with
            back-propagation's gradient (`beyondprop.measure.alignment`); 0 never does. Angles and norm ratios go to the
            metrics, and a picture of them to the run folder. The weights stay the same, bit for bit.
        gauss_newton_every: The same beside Gauss-Newton updates, on the first samples of the batch
            (`beyondprop.measure.gauss_newton`), with the share of each update by which no output moves.
        callbacks: Called before and after every step, such as a schedule of pruning
            (`beyondprop.layers.sparse.GradualPruning`).
        team: Where several processes train the rule together: this one's `beyondprop.parallel.Share` of it. No
            accuracy is measured then.

    Returns:
        Counts, time and the epochs' records.

    Raises:
        UserError: There are no batches, or they run out, or one is no pair; an argument is out of range.
        NonFiniteError: The loss is NaN or infinite. The last checkpoint is whole and the metrics are written.
        RunError: The disk is full or refuses, or the checkpoint is of another rule or optimizer.
        Interrupted: Ctrl-C or SIGTERM, where there is a run; the checkpoint is saved.

    >>> import torch
    >>> from beyondprop.rules.signals.backprop import Backprop
    >>> rule = Backprop(torch.nn.Linear(4, 3))
    >>> optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    >>> fit(rule, [(torch.ones(2, 4), torch.tensor([0, 2]))], optimizer=optimizer, epochs=3, progress=False).steps
    3
    """
    if epochs < 1:
        raise UserError(f"epochs must be at least 1, not {epochs}")
    if not checkpoint_seconds >= 0:
        raise UserError(f"checkpoint_seconds must be at least 0, not {checkpoint_seconds}")
    check(alignment_every=alignment_every, gauss_newton_every=gauss_newton_every)
    _require_trainable(rule, optimizer, scheduler)
    device = device_of(rule)
    source, plan = Source(batches, device), [Pass(*one) for one in rule.passes(epochs)]
    total_steps = None if source.length is None else source.length * len(plan)
    with (
        Tracker(run, total_steps=total_steps, tensorboard=tensorboard) as tracker,
        Display(plan[-1].epoch, total_steps, shown=progress) as display,
        StopSignals(active=run is not None) as signals,
    ):
        Trainer(
            rule=rule,
            source=source,
            plan=plan,
            optimizer=optimizer,
            scheduler=scheduler,
            validation=None if validation is None else Source(validation, device),
            inference=inference,
            precision=precision,
            average=WeightAverage(rule, ema) if ema != 0 else None,
            run=run,
            checkpoint_seconds=checkpoint_seconds,
            tracker=tracker,
            display=display,
            signals=signals,
            alignment_every=alignment_every,
            gauss_newton_every=gauss_newton_every,
            callbacks=callbacks,
            team=team,
        ).train()
    totals = tracker.totals
    epoch_records = [record for record in tracker.records if "seconds" in record]
    return FitResult(totals.step, totals.images, totals.seconds, totals.peak_memory_bytes, epoch_records)


def _require_trainable(rule: Rule, optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
    """Refuse what cannot step: a solver, and optimizers and schedulers that want more than `step()` or move nothing.

    An optimizer that holds none of the rule's parameters is mostly one of the network that was copied into the rule. If
    it holds only some, the others may have been left out by mistake, and are named.
    """
    if not isinstance(rule, Rule):
        raise UserError(f"{type(rule).__name__} is no rule that an optimizer steps: a solver has `fit_batches`")
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise UserError(
            f"optimizer must be one of torch's that steps without a closure, not {type(optimizer).__name__}: parts "
            "with settings of their own are groups of one optimizer, see rule.parameter_groups()"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UserError("ReduceLROnPlateau waits for a figure at each step: take a scheduler of steps alone")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    # Not all of the rule's parameters: of one that several processes share out, each trains a part.
    own = {id(p) for group in rule.parameter_groups() for p in group["params"] if p.requires_grad}
    missing = own - held
    if missing == own:
        raise UserError(
            "the optimizer holds none of the rule's trainable parameters: make it from rule.parameters(), not from the "
            "network's, and leave some of them trainable"
        )
    left_out = [name for name, p in rule.named_parameters() if id(p) in missing]
    if left_out:
        logger.warning(
            "%d of the rule's trainable tensors are in no group of the optimizer and stay as they are (%s%s)",
            len(left_out),
            ", ".join(left_out[:3]),
            ", …" if len(left_out) > 3 else "",
        )

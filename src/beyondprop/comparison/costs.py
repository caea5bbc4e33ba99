"""What one training step of a rule costs: time, memory by class, what is kept for backward, operations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from beyondprop.measure.memory import peak_allocated_bytes, peak_live_bytes, peak_saved_bytes
from beyondprop.measure.operations import floating_point_operations
from beyondprop.measure.timing import step_time
from beyondprop.rule import Rule
from beyondprop.training.assembly import LoadedRun, make_optimizer
from beyondprop.training.evaluation import autocast
from beyondprop.training.provenance import surroundings


def costs_of(built: LoadedRun, *, repeats: int = 15) -> dict[str, Any]:
    """Measure a step of a recipe that was just assembled; its weights stay as they are.

    A step is all that the rule does with one batch in one epoch: every stage, every phase, each with the optimizer's
    step. So rules that go over the data once for each layer and rules that go over them once for all stand on one
    scale.

    Args:
        built: Of a rule, not of a solver.
        repeats: Calls that are timed.

    Returns:
        `step_seconds` (as `StepTime`), `batch_size`, `operations`, `memory_bytes` (peak of live storages by class),
        `saved_bytes` (most that autograd kept for backward) and `parameters`, a count; on CUDA `allocated_bytes`
        as well, the most that its allocator gave. `environment` tells where the step was timed, which may be elsewhere
        than a training whose run folder is only read.
    """
    rule, settings = built.rule, built.settings
    assert isinstance(rule, Rule), "a solver takes no steps"
    optimizer = built.experiment.optimizer or make_optimizer(rule, settings)  # type: ignore[arg-type]
    x, y = next(iter(built.batches(built.splits.train, training=True)))
    rule.train()
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # what is measured is the step, not where it leads without the training's schedule

    def step() -> None:
        for _, stage in rule.passes(1):
            rule.stage = stage
            for phase in rule.phases:
                optimizer.zero_grad(set_to_none=True)
                with autocast(built.device, built.execution.precision):
                    rule.backward(x, y, phase)
                optimizer.step()

    timed = step_time(step, repeats=repeats, device=built.device)
    return {
        "step_seconds": asdict(timed),
        "batch_size": len(x),
        "operations": floating_point_operations(step),
        "memory_bytes": peak_live_bytes(step, rule, optimizer),
        "saved_bytes": peak_saved_bytes(step, rule),
        **({"allocated_bytes": peak_allocated_bytes(step, built.device)} if built.device.type == "cuda" else {}),
        "parameters": sum(parameter.numel() for parameter in rule.parameters()),
        "environment": surroundings(built.device),
    }

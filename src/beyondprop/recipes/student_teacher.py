"""Regression to a random teacher, and the toys of arXiv 2006.14331: Gauss-Newton targets and their approximations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beyondprop.checks import check_whole
from beyondprop.recipe import Experiment, Recipe, Schedule, Settings
from beyondprop.recipes.sequences import baselines

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beyondprop.data import Splits
    from beyondprop.measure.gauss_newton import GaussNewtonAlignment
    from beyondprop.rule import Rule

MEASURED = 50  # test samples that are looked at one by one


@dataclass(frozen=True, kw_only=True)
class StudentSettings(Settings):
    """Settings of a student, a perceptron of tanh with a linear output, drawn by Xavier's normal distribution."""

    epochs: int = 30
    batch_size: int = 32
    """Samples in a batch."""
    validation: int = 0
    """Samples held out of the training set, the last ones, to choose settings by; 0 trains on all of it."""
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    lr_schedule: Schedule = "cosine"
    inputs: int = 6
    """Numbers of a sample."""
    hidden: int = 50
    """Width of the hidden layers."""
    depth: int = 3
    """Number of them."""
    outputs: int = 2
    """Numbers of a target."""
    bias: bool = True
    """Whether the student's layers have one."""
    samples: int = 4000
    """For training."""
    test_samples: int = 1000
    """For testing."""

    def __post_init__(self) -> None:
        """Refuse what is no network, or no data."""
        check_whole(1, inputs=self.inputs, hidden=self.hidden, outputs=self.outputs)
        check_whole(0, depth=self.depth)
        check_whole(1, samples=self.samples, test_samples=self.test_samples)

    def data(self) -> Splits:
        """Ask the teacher."""
        from beyondprop.data.made import student_teacher

        return student_teacher(self.inputs, self.outputs, train=self.samples, test=self.test_samples)


@dataclass(frozen=True, kw_only=True)
class GaussNewtonStudent(StudentSettings):
    """Settings of a student under Gauss-Newton targets."""

    damping: float = 0.1
    """lambda, in the units of J J^T of the activations; 0 takes pseudo-inverses."""


@dataclass(frozen=True, kw_only=True)
class TargetStudent(StudentSettings):
    """Settings of a student whose targets come by learned feedback."""

    target_step: float = 0.1
    """How far the output's target stands off, in units of its gradient for one sample."""
    noise: float = 0.05
    """Standard deviation of what is added to activations, from which the feedback learns."""
    feedback_rate: float = 3e-3
    """Learning rate of the feedback."""
    feedback_decay: float = 1e-4
    """Weight decay of the feedback."""
    pretraining: int = 2
    """Epochs in which the feedback alone learns, before all others."""


def student(settings: StudentSettings) -> nn.Module:
    """Make the network."""
    from torch import nn

    from beyondprop.networks.classifiers import xavier_normal

    layers: list[nn.Module] = []
    before = settings.inputs
    for _ in range(settings.depth):
        layers += [nn.Linear(before, settings.hidden, bias=settings.bias), nn.Tanh()]
        before = settings.hidden
    return xavier_normal(nn.Sequential(*layers, nn.Linear(before, settings.outputs, bias=settings.bias)))


def builder(rule_class: str, *options: str) -> Callable[[Any, Splits], Experiment]:
    """Make the build function of a rule around a student.

    Args:
        rule_class: `module:Class` below `rules/signals`.
        *options: Names of the settings that the rule takes as they are.
    """

    def build(settings: Any, splits: Splits) -> Experiment:
        import importlib

        import torch
        from torch import nn

        module, name = rule_class.split(":")
        kind = getattr(importlib.import_module(f"beyondprop.rules.signals.{module}"), name)
        given = {option: getattr(settings, option) for option in options}
        if name != "Backprop":
            given["example"] = torch.zeros(2, settings.inputs)
        rule = kind(student(settings), loss=nn.MSELoss(), **given)
        floors = linear_floor(splits)
        return Experiment(rule, measures=lambda batches: floors | signals(rule, batches))

    return build


def linear_floor(splits: Splits) -> dict[str, float]:
    """The error of the best linear prediction, and the targets' variance."""
    from beyondprop.data import Splits

    steps = Splits(*(replace(p, images=p.images.unsqueeze(1), labels=p.labels.unsqueeze(1)) for p in splits))
    found = baselines(steps, 1)
    return {name: found[name] for name in ("memoryless_mse", "target_variance")}


def signals(rule: Rule, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, list[float | None]]:
    """Means over test samples, each by itself as in the paper, of what their updates are; a number for each layer.

    Returns:
        `gauss_newton_degrees`, the angle to the Gauss-Newton update; `null_space`, the share that moves no output.
        A sample without update of a layer has neither there and is left out; None where all are.
    """
    from beyondprop.measure.gauss_newton import gauss_newton_alignment

    phase = rule.phases[-1]
    rows: list[list[GaussNewtonAlignment]] = []
    for x, y in batches:
        for n in range(min(len(x), MEASURED - len(rows))):
            found = gauss_newton_alignment(rule, x[n : n + 1], y[n : n + 1], phase)
            rows.append(list(found.values()))
    layers = list(zip(*rows, strict=True))
    return {
        "gauss_newton_degrees": [_mean(each.angle for each in layer) for layer in layers],
        "null_space": [_mean(each.null_space for each in layer) for layer in layers],
    }


def _mean(figures: Iterable[float | None]) -> float | None:
    """Of those that there are; None where there is none."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None


def recipes(
    system: str, name: str, build: Callable[[Any, Splits], Experiment], settings: Any
) -> tuple[Recipe, Recipe, Recipe]:
    """Make a rule's three recipes.

    Args:
        system: The system's id.
        name: Of the rule, for the summaries.
        build: Makes the experiment.
        settings: The rule's own.
    """
    toy = replace(settings, hidden=6, depth=2, samples=400, test_samples=200)
    # The network stays: only what its updates would be is looked at.
    still = replace(toy, batch_size=1, epochs=5, learning_rate=1e-9, lr_schedule="constant")
    if isinstance(still, TargetStudent):
        still = replace(still, pretraining=30)
    output = replace(toy, inputs=4, hidden=4, bias=False)
    told = (
        ("student-teacher", f"{name}: regression to a random teacher", settings),
        ("null-space", f"{name}: what updates of a still network 6-6-6-2 do to its output", still),
        ("output-space", f"{name}: regression by a network 4-4-4-2", output),
    )
    return tuple(  # type: ignore[return-value]
        Recipe(f"{system}/{variant}", summary, variant, given, build, data=type(given).data)
        for variant, summary, given in told
    )


OPTIONS = ("target_step", "noise", "feedback_rate", "feedback_decay", "pretraining")
BP = recipes("bp", "back-propagation", builder("backprop:Backprop"), StudentSettings())
GAUSS_NEWTON = recipes(
    "gauss-newton",
    "Gauss-Newton targets",
    builder("gauss_newton:GaussNewtonTargets", "damping"),
    GaussNewtonStudent(),
)
DTP = recipes("dtp", "difference target propagation", builder("target_propagation:DTP", *OPTIONS), TargetStudent())
DTPDR = recipes("dtpdr", "difference reconstruction", builder("target_propagation:DTPDR", *OPTIONS), TargetStudent())
DDTP = recipes("ddtp", "direct targets", builder("direct_target_propagation:DDTP", *OPTIONS), TargetStudent())

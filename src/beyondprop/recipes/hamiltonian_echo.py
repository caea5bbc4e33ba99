"""Hamiltonian echo backpropagation: coupled modes, layers of light, and cavity arrays that learn exclusive or."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits
    from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem

Echo = Literal["averaged", "simple", "alternating", "autograd"]
I0 = (16 / 25 * (0.4 + 8 / 39)) ** 2  # the ninth of forty amplitudes in the authors' code, squared: 0.150
SOLVED = 1e-8


@dataclass(frozen=True, kw_only=True)
class EchoSettings(Settings):
    """Settings of Hamiltonian echoes that classify images."""

    weight_decay: float = 0.0
    lr_schedule: Schedule = "one-cycle"
    echo: Echo = "averaged"
    """Echoes with both signs of epsilon, or one, or both in turn, each with friction; or back-propagation through all
    steps."""
    epsilon: float = 1e-2
    """Strength of the error that is injected."""
    layers: int = 4
    """Times that light meets learning modes."""
    strength: float = 15.0
    """Of the cross-Kerr effect: by what angle a learning mode of amplitude 1 turns the light."""
    own: float = 0.0
    """Of the Kerr effect of light on itself."""
    gain: float = 30.0
    """Score of a class whose detectors see all the power."""


@dataclass(frozen=True, kw_only=True)
class CoupledSettings(EchoSettings):
    """Settings of randomly coupled modes."""

    modes: int = 130
    """Of light, more than an image has pixels."""


@dataclass(frozen=True, kw_only=True)
class PhotonicSettings(EchoSettings):
    """Settings of layers of light."""

    channels: int = 1
    """Fields of light beside each other: 1, or an even number."""
    side: int = 32
    """Of the plane in which the image stands, in modes."""
    spread: float = 2.0
    """Strength of the diffraction between two layers."""


@dataclass(frozen=True, kw_only=True)
class TableSettings(Settings):
    """Settings of nonlinear cavities that learn exclusive or, many arrays of them at once."""

    epochs: int = 24
    """Of 256 presentations."""
    batch_size: int = 1
    """Patterns of one presentation."""
    learning_rate: float = 0.03
    """Of SGD the paper's epsilon/m, where the echo is averaged; half of that where it is not."""
    optimizer: Literal["sgd", "adam", "gauss-newton"] = "sgd"
    """SGD is what the machine does by itself, by friction; Gauss-Newton wants whole tables, at a rate of 1."""
    weight_decay: float = 0.0
    echo: Echo = "averaged"
    """Echoes with both signs of epsilon, or one, or both in turn, each with friction; or back-propagation through all
    steps."""
    epsilon: float = 1e-4
    """Strength of the error that is injected."""
    limit: float = 0.1
    """Longest way that an echo may move a learning mode under SGD; 0 for any, as under Adam."""
    starts: int = 10
    """Random starts of the learning modes; every intensity has the same ones."""
    theta_norm: float = 1.0
    """Length of the learning modes at the start."""
    intensities: tuple[float, ...] = (0.8, 1.0, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0)
    """Of an input, in units of the paper's I0 = 0.150. Every start is trained at each of them."""
    kerr: float = -2.0
    """g."""
    hopping: float = 10.0
    """J."""
    target: float = 0.5
    """Amplitude that is wanted, as a share of an input's."""
    step: float = 0.04
    """Of the integrator."""
    steps: int = 499
    """Of the integrator."""
    every: int = 48
    """Presentations between two notes of all outputs."""


@dataclass(frozen=True, kw_only=True)
class ArraySettings(TableSettings):
    """Settings of square lattices of learning modes, with evaluation modes at their corners."""

    coupling: float = 0.3
    """kappa, of corners and evaluation modes."""
    split: bool = False
    """Split the couplings as the authors' code does: twice the work, an error of the same order."""


@dataclass(frozen=True, kw_only=True)
class DisorderedSettings(TableSettings):
    """Settings of square lattices whose first row are the evaluation modes, with fabrication errors."""

    disorder: float = 0.03
    """Spread of the cavities' frequencies; 0 for none."""


def build_coupled(settings: CoupledSettings, splits: Splits) -> Experiment:
    """Build coupled modes under echoes."""
    from beyondprop.networks.hamiltonian_echo import coupled_modes

    system = coupled_modes(
        splits.train.images[0].numel(),
        splits.train.classes,
        **{name: getattr(settings, name) for name in ("layers", "modes", "strength", "own", "gain")},
    )
    return classifying(settings, system)


def build_photonic(settings: PhotonicSettings, splits: Splits) -> Experiment:
    """Build layers of light under echoes."""
    from beyondprop.networks.hamiltonian_echo import photonic_layers

    names = ("layers", "channels", "side", "strength", "own", "spread", "gain")
    system = photonic_layers(
        splits.train.images.shape[1:], splits.train.classes, **{name: getattr(settings, name) for name in names}
    )
    return classifying(settings, system)


def classifying(settings: EchoSettings, system: HamiltonianSystem) -> Experiment:
    """Put the rule around a system, with Adam."""
    import torch

    from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho

    rule = HamiltonianEcho(system, echo=settings.echo, epsilon=settings.epsilon)
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return Experiment(rule, optimizer=optimizer)


def build_array(settings: ArraySettings, splits: Splits) -> Experiment:
    """Build lattices with evaluation modes at their corners, every start at every intensity."""
    import torch

    from beyondprop.networks.hamiltonian_echo import cavity_array

    amplitudes = amplitudes_of(settings)
    draw = starts(settings, torch.rand, 16)
    theta = draw(settings.starts).repeat(len(settings.intensities), 1)
    system = cavity_array(amplitudes, theta, coupling=settings.coupling, split=settings.split, **dynamics(settings))
    return learning(settings, splits, system, amplitudes, draw)


def build_disordered(settings: DisorderedSettings, splits: Splits) -> Experiment:
    """Build lattices whose first row are the evaluation modes, every start with frequencies of its own."""
    import torch

    from beyondprop.networks.hamiltonian_echo import disordered_array

    amplitudes = amplitudes_of(settings)
    draw = starts(settings, torch.randn, 12)
    theta = draw(settings.starts).repeat(len(settings.intensities), 1)
    detuning = settings.disorder * torch.randn(settings.starts, 16, dtype=torch.float64)
    detuning = detuning.repeat(len(settings.intensities), 1)
    system = disordered_array(amplitudes, theta, detuning, **dynamics(settings))
    return learning(settings, splits, system, amplitudes, draw)


def amplitudes_of(settings: TableSettings) -> Tensor:
    """The inputs' amplitudes, one for each replica: (intensities, starts), flattened."""
    import torch

    from beyondprop.errors import UserError

    if settings.starts < 1 or not settings.intensities:
        raise UserError("a run needs at least one start and one intensity")
    amplitudes = torch.tensor(settings.intensities, dtype=torch.float64).mul(I0).sqrt()
    return amplitudes.repeat_interleave(settings.starts)


def starts(settings: TableSettings, random: Callable[..., Tensor], modes: int) -> Callable[[int], Tensor]:
    """What draws so many starts of the learning modes, of the wanted length."""
    import torch

    def draw(count: int) -> Tensor:
        drawn = random(count, modes, dtype=torch.float64)
        return drawn * (settings.theta_norm / drawn.norm(dim=1, keepdim=True))

    return draw


def dynamics(settings: TableSettings) -> dict[str, Any]:
    """What both lattices have in common."""
    return {"kerr": settings.kerr, "hopping": settings.hopping, "time": settings.step, "steps": settings.steps}


def learning(
    settings: TableSettings,
    splits: Splits,
    system: HamiltonianSystem,
    amplitudes: Tensor,
    draw: Callable[[int], Tensor],
) -> Experiment:
    """Put echoes around replicas that note their course; `draw` makes further starts."""
    import torch

    from beyondprop.data import Statistics
    from beyondprop.errors import UserError
    from beyondprop.rules.relaxation.newton_echo import GaussNewtonEcho
    from beyondprop.rules.relaxation.noting_echo import NotingEcho

    statistics = Statistics.of(splits.train)
    patterns = (splits.test.images - statistics.mean) / statistics.std
    presentations = settings.epochs * math.ceil(len(splits.train) / settings.batch_size)
    echoes = 1 if settings.echo == "averaged" else 2
    newton = settings.optimizer == "gauss-newton"
    own: dict[str, Any]
    if newton:
        if settings.echo != "averaged" or settings.learning_rate != 1.0:
            raise UserError("Gauss-Newton steps are of averaged echoes, at a learning rate of 1 and no other")
        own = {"draw": draw, "steps": presentations}
    else:
        own = {
            "echo": settings.echo,
            "mass": settings.epsilon / (echoes * settings.learning_rate),
            "limit": settings.limit if settings.limit and settings.optimizer == "sgd" else None,
        }
    rule = (GaussNewtonEcho if newton else NotingEcho)(
        system,
        settings.target * amplitudes,
        patterns,
        splits.test.labels,
        every=settings.every,
        points=math.ceil(presentations / settings.every),
        epsilon=settings.epsilon,
        **own,
    )

    def by_intensity(values: Tensor) -> Tensor:
        return values.view(len(settings.intensities), settings.starts)

    def measures(_batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        costs = by_intensity(rule.costs(rule.shares()))
        solved = (costs <= SOLVED).double()
        return {
            "solved_fraction": float(solved.mean()),
            "solved_by_intensity": solved.mean(dim=1).tolist(),
            "median_cost_by_intensity": costs.quantile(0.5, dim=1).tolist(),  # between both middles of an even number
        }

    def files(_batches: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, bytes]:
        from beyondprop.training.curves import draw_course

        shares = torch.cat([torch.view_as_complex(rule.course), rule.shares()[None]])
        taken = [settings.every * point for point in range(len(rule.course))] + [int(rule.taken)]
        costs = rule.costs(shares)
        lines = {
            f"{intensity:g} I0": row.tolist()
            for intensity, row in zip(
                settings.intensities, costs.view(len(costs), -1, settings.starts).quantile(0.5, dim=2).T, strict=True
            )
        }
        best = int(costs[-1].argmin())
        answers = {
            "".join(str(int(bit)) for bit in pattern): shares[:, number, best].real.tolist()
            for number, pattern in enumerate(splits.test.images)
        }
        return {"course.png": draw_course(taken, lines, answers, "Exclusive or")}

    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.SGD
    optimizer = kind(rule.parameter_groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return Experiment(rule, measures=measures, files=files, optimizer=optimizer)


def classifier_choices(settings: EchoSettings) -> tuple[str, ...]:
    """What a classifier settles by itself, for the paper has another network."""
    return (
        f"Adam, {settings.lr_schedule} schedule",
        "scores from intensities, cross-entropy",
        "light and learning modes by cross-Kerr",
    )


def array_choices(settings: TableSettings) -> tuple[str, ...]:
    """What arrays settle otherwise than the authors' code, and what their accuracy is."""
    told = {
        "accuracy of the sign of the arrays' mean answer (solved_fraction counts arrays)": True,
        "echoes of both signs from one forward pass": settings.echo == "averaged",
        f"Adam, {settings.lr_schedule} schedule": settings.optimizer == "adam",
        "Gauss-Newton steps, arrays that stick begin anew": settings.optimizer == "gauss-newton",
        f"batches of {settings.batch_size} patterns": settings.batch_size > 1,
        "all couplings in one part": not getattr(settings, "split", True),
    }
    return tuple(text for text, true in told.items() if true)


RECIPES = (
    Recipe(
        "heb/digits",
        "randomly coupled modes of light on scikit-learn's digits",
        "digits",
        CoupledSettings(epochs=20, batch_size=64, learning_rate=2e-2, gain=100.0),
        build_coupled,
        choices=classifier_choices,
    ),
    Recipe(
        "heb/mnist",
        "layers of light with learned indices of refraction on MNIST",
        "mnist",
        # A constant rate of 1e-2 falls back from 91 % after an epoch to 68 % of the training images after three.
        PhotonicSettings(epochs=3, batch_size=64, learning_rate=2e-3, lr_schedule="cosine", layers=6, gain=100.0),
        build_photonic,
        choices=lambda settings: ("the paper's network was not at hand", *classifier_choices(settings)),
    ),
    Recipe(
        "heb/xor",
        "eighty cavity arrays, ten starts at eight intensities, learn exclusive or in one run",
        "xor",
        ArraySettings(),
        build_array,
        choices=array_choices,
        variants=("starts", "intensities", "split", "every"),
    ),
    Recipe(
        "heb/xor-adam",
        "the arrays of heb/xor by Adam, four patterns a step",
        "xor",
        ArraySettings(optimizer="adam", learning_rate=0.01, lr_schedule="cosine", batch_size=4, epochs=40, every=16),
        build_array,
        choices=array_choices,
        variants=("starts", "intensities", "split", "every"),
    ),
    Recipe(
        "heb/xor-newton",
        "the arrays of heb/xor by Gauss-Newton steps, begun anew where they stick",
        "xor",
        ArraySettings(optimizer="gauss-newton", learning_rate=1.0, batch_size=256, epochs=400, every=4),
        build_array,
        choices=array_choices,
        variants=("starts", "intensities", "split", "every"),
    ),
    Recipe(
        "heb/xor-disorder",
        "cavity arrays with random detunings learn exclusive or in one run",
        "xor",
        DisorderedSettings(
            epochs=2,
            learning_rate=0.1,
            limit=0.0,
            intensities=(1 / I0,),
            kerr=-1.0,
            target=0.25,
            step=0.01,
            steps=1999,
            every=16,
        ),
        build_disordered,
        choices=lambda settings: (*array_choices(settings), "one spread of detunings"),
        variants=("starts", "every"),
    ),
)

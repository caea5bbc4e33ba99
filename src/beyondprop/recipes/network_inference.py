"""Networks of chaotic systems, inferred from series with noise; closed forms beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.checks import check_number, check_whole
from beyondprop.recipe import Experiment, Recipe, SolverSettings

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits
    from beyondprop.dynamics.systems import System


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(SolverSettings):
    """Settings of a network and of its inference."""

    batch_size: int = 1
    """Series in a batch."""
    system: Literal["lorenz", "chua", "fhn"] = "lorenz"
    """Of every node: Lorenz, Chua, or FitzHugh-Nagumo with a drive (Hong 2011)."""
    nodes: int = 16
    """Of the network."""
    edges: float = 0.3
    """Probability of each edge, in each direction by itself."""
    weight: float = 0.3
    """Mean of the weights, which are normally distributed; below zero for negative coupling."""
    weight_deviation: float = 0.1
    """Deviation of the weights."""
    steps: int = 3000
    """Of the series."""
    interval: float = 0.01
    """Time between two samples."""
    noise: float = 0.01
    """Of the observation, in shares of each component's deviation."""
    process_noise: float = 0.0
    """Deviation of white noise that drives every component, per square root of time."""
    spread: float = 0.0
    """Relative deviation of Chua's parameter a from node to node; 0 for identical nodes."""
    tolerance: float = 1e-8
    """Of the solver that simulates."""
    hidden: int = 16
    """Width of the local model's two hidden layers."""
    windows: tuple[int, ...] = (8, 16, 32, 48)
    """Steps of a window, pass by pass."""
    rounds: int = 8
    """Of the alternation in each pass, at most."""
    substeps: int = 1
    """Of the local model's integration between two samples."""
    threshold: float = 0.1
    """Of sparse regression, the baseline: smaller weights are set to zero."""
    start_noise: float = 1e-3
    """Of the starts of free runs, of the inferred and the true network alike; the noise where that is more."""
    starts: int = 20
    """Of free runs."""
    horizon: int = 1000
    """Steps of a free run."""

    def __post_init__(self) -> None:
        """Refuse what is no network."""
        check_whole(2, nodes=self.nodes)
        check_whole(1, starts=self.starts, horizon=self.horizon, rounds=self.rounds)
        check_number(start_noise=self.start_noise, noise=self.noise, threshold=self.threshold)

    def local(self) -> System:
        """The local system."""
        from beyondprop.dynamics.systems import Chua, FitzHughNagumo, Lorenz

        return {"lorenz": Lorenz, "chua": Chua, "fhn": FitzHughNagumo}[self.system]()


def draw(settings: NetworkSettings, seed: int) -> Splits:
    """Simulate another network for every seed."""
    from beyondprop.dynamics.series import network_series

    return network_series(
        settings.local(),
        nodes=settings.nodes,
        probability=settings.edges,
        mean=settings.weight,
        deviation=settings.weight_deviation,
        steps=settings.steps,
        interval=settings.interval,
        noise=settings.noise,
        process_noise=settings.process_noise,
        tolerance=settings.tolerance,
        spread=settings.spread,
        seed=seed,
    )


def build(settings: NetworkSettings, splits: Splits) -> Experiment:
    """Make the inference."""
    from beyondprop.dynamics.inference import NetworkInference

    inference = NetworkInference(
        settings.nodes,
        settings.local().components,
        interval=settings.interval,
        period=settings.local().period,
        hidden=settings.hidden,
        windows=tuple(settings.windows),
        rounds=settings.rounds,
        substeps=settings.substeps,
    )

    def measures(_batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        from beyondprop.dynamics.report import report

        return report(inference, settings, splits)

    def files(_batches: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, bytes]:
        from beyondprop.dynamics.report import free_runs
        from beyondprop.training.network_picture import draw_network

        test: Any = splits.test
        noise = max(settings.noise, settings.start_noise)
        content = draw_network(
            test.weights,
            inference.weights.cpu().numpy(),
            *free_runs(inference, settings, test),
            interval=settings.interval,
            title=f"{settings.nodes} nodes, {100 * settings.noise:g} % noise, free runs from {100 * noise:g} % noise",
        )
        return {"network.png": content}

    return Experiment(inference, measures=measures, files=files)


def choices(settings: NetworkSettings) -> tuple[str, ...]:
    """Name what is settled where the paper could not be read: its own tables and settings."""
    told = ["networks, noise and series of ours", "starts of windows estimated, longer windows in steps, likely edges"]
    if settings.system == "chua":
        told.append("a diode with outer segments")
    return tuple(told)


LORENZ = NetworkSettings()
# Negative coupling: with positive coupling nodes soon leave Chua's attractor for a large cycle, or move together.
CHUA = NetworkSettings(
    system="chua", weight=-0.05, weight_deviation=0.015, interval=0.04, tolerance=1e-7, threshold=0.02
)
# 80 samples of a drive's period.
FHN = NetworkSettings(
    system="fhn",
    weight=-0.05,
    weight_deviation=0.015,
    interval=1 / 0.129 / 80,
    threshold=0.02,
    substeps=2,
    hidden=12,
    windows=(8, 12, 16),
    rounds=16,
    horizon=1500,
)
NAMES = {"lorenz": LORENZ, "chua": CHUA, "fhn": FHN}
TOLD = {"lorenz": "Lorenz systems", "chua": "Chua's circuits", "fhn": "FitzHugh-Nagumo neurons"}


def _recipe(name: str, nodes: int, noise: float) -> Recipe:
    settings = replace(NAMES[name], nodes=nodes, edges=0.3 if nodes == 16 else 0.1, noise=noise)
    share = f"{100 * noise:g}"
    return Recipe(
        f"network-inference/{name}-{nodes}-noise-{share.replace('.', 'p')}",
        f"{nodes} {TOLD[name]}, {share} % noise",
        "network-series",
        settings,
        build,
        choices=choices,
        drawn=draw,
    )


RECIPES = (
    Recipe(
        "network-inference/lorenz-5",
        "five Lorenz systems, in seconds",
        "lorenz-5",
        replace(LORENZ, nodes=5, edges=0.4, steps=800, hidden=10, windows=(16,), horizon=400, starts=8),
        build,
        choices=choices,
        drawn=draw,
    ),
    *(_recipe(name, nodes, noise) for name in NAMES for nodes in (16, 64) for noise in (0.0, 0.001, 0.01)),
    Recipe(
        "network-inference/chua-16-spread",
        "16 Chua's circuits that differ by 1 %, 0.1 % noise",
        "network-series",
        replace(CHUA, noise=0.001, spread=0.01),
        build,
        choices=choices,
        drawn=draw,
    ),
)

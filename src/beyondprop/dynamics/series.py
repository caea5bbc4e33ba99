"""Series of simulated networks as data of recipes: one seen with noise, and another one to test on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from beyondprop.checks import check_number, check_whole
from beyondprop.data import Splits
from beyondprop.data.sets import SequenceSet
from beyondprop.dynamics.simulation import observe, random_weights, simulate
from beyondprop.dynamics.systems import System
from beyondprop.errors import UserError


@dataclass(frozen=True, eq=False)
class NetworkSeries(SequenceSet):
    """A series of a network whose truth is known; inputs and targets are one sample apart.

    Attributes:
        system: Of every node.
        weights: The true ones, shape (nodes, nodes).
        clean: The series without the noise of observation, shape (steps + 1, nodes, components).
        alone: States of one node without any coupling, on its attractor, shape (samples, components).
        begin: Time of the first sample; a multiple of the drive's period, where there is one.
    """

    system: System | None = None
    weights: np.ndarray | None = None
    clean: np.ndarray | None = None
    alone: np.ndarray | None = None
    begin: float = 0.0


def network_series(
    system: System,
    *,
    nodes: int,
    probability: float,
    mean: float,
    deviation: float,
    steps: int,
    interval: float,
    noise: float = 0.0,
    process_noise: float = 0.0,
    coupled: tuple[int, ...] = (0,),
    washout: float = 30.0,
    tolerance: float = 1e-8,
    spread: float = 0.0,
    samples_alone: int = 4000,
    seed: int = 0,
) -> Splits:
    """Simulate a network twice from different starts: to learn from, with noise, and to test on.

    Nodes start at places of their own on the attractor of one node alone, so that they are neither alike nor outside.

    Args:
        system: Of every node.
        nodes: At least 2.
        probability: Of an edge.
        mean: Of the weights.
        deviation: Of the weights.
        steps: Samples of each series, less one.
        interval: Between two samples.
        noise: Of the observation, in shares of each component's deviation.
        process_noise: As `simulate` takes it; the test series is without.
        coupled: Components that couple.
        washout: Time before the first sample; raised to a multiple of the drive's period.
        tolerance: Of the solver.
        spread: Relative deviation of Chua's `a` from node to node, 0 for identical nodes.
        samples_alone: Of the series of one node without coupling.
        seed: Of the graph, the starts and the noise.

    Returns:
        Series of shape (1, steps, nodes * components), targets one sample later.

    Raises:
        UserError: A number is out of range, or the network leaves every bound.
    """
    check_whole(2, steps=steps)
    check_number(spread=spread)
    weights = random_weights(nodes, probability, mean=mean, deviation=deviation, seed=seed)
    if system.period:
        washout = system.period * math.ceil(washout / system.period - 1e-9)
    alone = simulate(
        system, np.zeros((1, 1)), samples_alone, interval, washout=10 * washout, tolerance=1e-6, seed=seed
    )[:, 0]
    random = np.random.default_rng(seed + 2**20)
    sets, own = [], system
    if spread:
        if not hasattr(system, "a"):
            raise UserError("spread is for networks of Chua's circuits, whose parameter a it changes from node to node")
        own = replace(system, a=tuple(system.a * (1 + spread * random.standard_normal(nodes))))  # type: ignore[arg-type]
    for part in range(2):
        places = alone[random.integers(len(alone), size=nodes)]
        clean = simulate(
            own,
            weights,
            steps + 1,
            interval,
            starts=places,
            coupled=coupled,
            washout=washout,
            process_noise=0.0 if part else process_noise,
            tolerance=tolerance,
            seed=2 * seed + part,
        )
        seen = clean if part else observe(clean, noise, seed=seed)
        flat = torch.from_numpy(seen).float().flatten(1)[None]
        truth = {"system": own, "weights": weights, "clean": clean, "alone": alone, "begin": washout}
        inputs, targets = flat[:, :-1].contiguous(), flat[:, 1:].contiguous()
        sets.append(NetworkSeries(inputs, targets, flat.shape[2], "network-series", None, **truth))  # type: ignore[arg-type]
    return Splits(*sets)

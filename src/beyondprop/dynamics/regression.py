"""Closed forms: a library of functions that all nodes share, and a row of weights for each node, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beyondprop.dynamics.coupling import coupling

Array = NDArray[np.float64]
Library = Callable[[Array], Array]


@dataclass(frozen=True)
class Regression:
    """What was found.

    Attributes:
        weights: w_kj, from node j to node k, shape (nodes, nodes), zero diagonal.
        coefficients: Of the library, shape (functions, components).
    """

    weights: Array
    coefficients: Array


def polynomials(x: Array) -> Array:
    """One, every component, and every product of two: shape (..., components) to (..., functions)."""
    count = x.shape[-1]
    parts = [np.ones_like(x[..., 0]), *np.moveaxis(x, -1, 0)]
    parts += [x[..., i] * x[..., j] for i in range(count) for j in range(i, count)]
    return np.stack(parts, -1)


def cubics(x: Array) -> Array:
    """`polynomials` and every product of three."""
    count = x.shape[-1]
    triples = [(i, j, k) for i in range(count) for j in range(i, count) for k in range(j, count)]
    return np.concatenate(
        (polynomials(x), np.stack([x[..., i] * x[..., j] * x[..., k] for i, j, k in triples], -1)), -1
    )


def least_squares(
    states: Array,
    slopes: Array,
    coupled: Sequence[int] = (0,),
    library: Library = polynomials,
) -> Regression:
    """Minimise |x' - f(x) - sum_j w_kj (x_j - x_k)|^2 over f in the span of a library and all weights, exactly.

    What each node's own row can explain is taken out of the library first (Frisch and Waugh 1933), so that no system
    is larger than the nodes or the library.

    Args:
        states: Shape (time, nodes, components).
        slopes: Of the same shape.
        coupled: Components that couple, each into itself, all by the same weights.
        library: What f is made of, the same for all nodes; given states of shape (time, nodes, components).
    """
    nodes, coupled = states.shape[1], list(coupled)
    functions = library(states)
    count = functions.shape[-1]
    gram, moment = np.zeros((len(coupled) * count,) * 2), np.zeros(len(coupled) * count)
    rows = []
    for k in range(nodes):
        others = np.arange(nodes) != k
        differences = np.concatenate([states[:, others, c] - states[:, [k], c] for c in coupled])
        blocks = np.kron(np.eye(len(coupled)), functions[:, k])
        wanted = np.concatenate([slopes[:, k, c] for c in coupled])
        basis, triangle = np.linalg.qr(differences)
        left, rest = blocks - basis @ (basis.T @ blocks), wanted - basis @ (basis.T @ wanted)
        gram += left.T @ left
        moment += left.T @ rest
        rows.append((basis, triangle, blocks, wanted, others))
    own = np.linalg.lstsq(gram, moment, rcond=1e-12)[0]
    weights = np.zeros((nodes, nodes))
    for k, (basis, triangle, blocks, wanted, others) in enumerate(rows):
        weights[k, others] = np.linalg.lstsq(triangle, basis.T @ (wanted - blocks @ own), rcond=1e-12)[0]
    coefficients = np.linalg.lstsq(functions.reshape(-1, count), slopes.reshape(-1, states.shape[2]), rcond=1e-12)[0]
    coefficients[:, coupled] = own.reshape(len(coupled), count).T
    return Regression(weights, np.asarray(coefficients, np.float64))


def sparse_regression(
    states: Array,
    slopes: Array,
    coupled: Sequence[int] = (0,),
    library: Library = polynomials,
    *,
    threshold: float = 0.1,
    rounds: int = 10,
) -> Regression:
    """Sequentially thresholded least squares, as in SINDy (Brunton, Proctor, Kutz 2016), on library and weights.

    Coefficients below the threshold are set to zero and the others are fitted anew, until none is left that is below.
    Coefficients of the library count in units of the states' and slopes' deviations, weights as they are.

    Args:
        states: Shape (time, nodes, components).
        slopes: Of the same shape.
        coupled: As in `least_squares`.
        library: As in `least_squares`.
        threshold: Of weights; a tenth of it for the library, whose coefficients are shares.
        rounds: At most so many.
    """
    nodes, coupled = states.shape[1], list(coupled)
    found = least_squares(states, slopes, coupled, library)
    functions = library(states)
    sizes = functions.std((0, 1), keepdims=False) + (functions.std((0, 1)) == 0) * np.abs(functions).mean((0, 1))
    weights, coefficients = found.weights, found.coefficients
    share = sizes[:, None] / slopes.std((0, 1))
    for _ in range(rounds):
        edges, terms = np.abs(weights) >= threshold, np.abs(coefficients) * share >= threshold / 10
        given = coupling(states, weights, coupled)
        new = np.zeros_like(coefficients)
        for c in range(states.shape[2]):
            chosen = terms[:, c]
            if chosen.any():
                matrix = functions[..., chosen].reshape(-1, int(chosen.sum()))
                new[chosen, c] = np.linalg.lstsq(matrix, (slopes - given)[..., c].ravel(), rcond=1e-12)[0]
        rest = slopes - functions @ new
        row = np.zeros_like(weights)
        for k in range(nodes):
            if edges[k].any():
                matrix = np.concatenate([states[:, edges[k], c] - states[:, [k], c] for c in coupled])
                wanted = np.concatenate([rest[:, k, c] for c in coupled])
                row[k, edges[k]] = np.linalg.lstsq(matrix, wanted, rcond=1e-12)[0]
        still = np.allclose(row, weights, rtol=1e-6, atol=1e-9) and np.allclose(new, coefficients, rtol=1e-6, atol=1e-9)
        weights, coefficients = row, new
        if still:
            break
    return Regression(weights, coefficients)

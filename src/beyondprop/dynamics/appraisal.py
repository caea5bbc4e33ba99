"""An inferred network without a truth beside it: free runs on a held-out series, and closed forms in the same call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beyondprop.checks import check_whole
from beyondprop.dynamics.checked import checked_series
from beyondprop.dynamics.closed_forms import ClosedForm, closed_forms
from beyondprop.dynamics.comparison import evenly_spaced, free_run, valid_time
from beyondprop.dynamics.inference import NetworkInference
from beyondprop.dynamics.regression import Library, polynomials
from beyondprop.dynamics.scores import valid_steps
from beyondprop.errors import UserError

Array = NDArray[np.float64]
OWN = "inference"


@dataclass(frozen=True, repr=False)
class Appraisal:
    """What `appraise` has found.

    Attributes:
        forms: The closed forms, by name: their `weights` stand beside the inferred ones.
        truth: The held-out series from each start, shape (starts, horizon + 1, nodes, components).
        runs: Free runs from its first samples, by name, all of that shape; the inferred network's is `"inference"`.
        valid_time: How long each stays with the series, on average, in units of time (not samples): until it is off by
            0.4 of the states' deviation, root mean square, or to the horizon.
        lasted: The share of its runs that were still valid at the horizon. Where it is not small, a longer horizon
            may tell methods apart that this one does not.
    """

    forms: dict[str, ClosedForm]
    truth: Array
    runs: dict[str, Array]
    valid_time: dict[str, float]
    lasted: dict[str, float]


def appraise(
    inference: NetworkInference,
    series: Any,
    held_out: Any,
    *,
    starts: int = 10,
    horizon: int | None = None,
    begin: int = 0,
    library: Library = polynomials,
    threshold: float | None = None,
) -> Appraisal:
    """Set an inferred network beside closed forms on the same series, by free runs on another one.

    A run starts from a sample as it was seen, noise and all: what is chaotic leaves the series soon however good the
    network is, so compare valid times with each other.

    Args:
        inference: Fitted to `series`.
        series: Shape (time, nodes, components): the closed forms are fitted to it.
        held_out: Samples that follow it, or another series of the same network, of the same shape.
        starts: Free runs, at most.
        horizon: Steps of each; by default half of the held-out series. Starts are spread over the rest of it.
        begin: Of a driven system: the number of the held-out series' first sample, counted as in the fit.
        library: Of the closed forms: `polynomials`, `cubics`, or one of your own.
        threshold: Of sparse regression: smaller weights are set to zero; by default a third of what inferred
            edges have on average.

    Raises:
        UserError: A shape does not fit, nothing was fitted yet, or the held-out series is shorter than the horizon.
    """
    check_whole(1, starts=starts)
    size: dict[str, Any] = {"nodes": inference.nodes, "components": inference.components}
    given, other = checked_series(series, **size), checked_series(held_out, **size)
    horizon = max(1, len(other) // 2) if horizon is None else horizon
    check_whole(1, horizon=horizon)
    if len(other) < horizon + 1:
        raise UserError(f"the held-out series has {len(other)} samples: a horizon of {horizon} needs {horizon + 1}")
    truth = evenly_spaced(other, starts, horizon, inference.interval, inference.period)
    forms = closed_forms(
        given,
        inference.interval,
        coupled=inference.coupled,
        library=library,
        period=inference.period,
        threshold=abs(float(inference.edges[0])) / 3 if threshold is None else threshold,
    )
    runs = {OWN: inference.predict(truth[:, 0], horizon, at=begin).double().cpu().numpy()}
    when = begin * inference.interval
    for name, form in forms.items():
        runs[name] = free_run(form.slope, truth[:, 0], horizon, inference.interval, begin=when, substeps=1)
    scale = other.std((0, 1))
    times = {name: valid_time(run, truth, scale, inference.interval) for name, run in runs.items()}
    whole = {name: float((valid_steps(run, truth, scale) > horizon).mean()) for name, run in runs.items()}
    return Appraisal(forms, truth, runs, times, whole)

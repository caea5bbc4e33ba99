"""The two sweeps of `sweep.py` for CPUs, compiled by Numba where it is installed: one neuron after another, in cache.

Neurons of a layer do not hear of each other: each thread takes a part of them, whose gradients no other thread touches.
"""

# mypy: ignore-errors
from __future__ import annotations

import math

import numba
import numpy as np

NO_LEAK, SQUARE_ROOT, LAMBERT, SEARCH = range(4)
WORD = 8  # bytes that are looked at in one go
OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
FUSED = {"contract"}  # products and sums in one instruction
SUMS = {"reassoc", "contract", "nsz"}  # what sums in vectors need; infinities and NaN keep their meaning


def regime(tau_m: float, tau_s: float) -> int:
    """Which closed form there is for the crossing, if any."""
    if math.isinf(tau_m):
        return NO_LEAK
    return SQUARE_ROOT if tau_m == 2 * tau_s else LAMBERT if tau_m == tau_s else SEARCH


@numba.njit(inline="always", **OPTIONS)
def _kernel(s, tau_m, tau_s, c):
    if math.isinf(c):
        return s * math.exp(-s / tau_s)
    slow = max(tau_m, tau_s)
    return -abs(c) * math.exp(-s / slow) * math.expm1(-s / abs(c))


@numba.njit(inline="always", **OPTIONS)
def _decays(s, constants):
    """What a time s leaves of a potential, what it leaves of a current, and the kernel; with one exponential or two."""
    tau_m, tau_s, _, c, kind = constants
    if kind == NO_LEAK:
        fade = math.exp(-s / tau_s)
        return 1.0, fade, c * (1 - fade)
    if kind == SQUARE_ROOT:
        leak = math.exp(-s / tau_m)
        return leak, leak * leak, c * (leak - leak * leak)
    return math.exp(-s / tau_m), math.exp(-s / tau_s), _kernel(s, tau_m, tau_s, c)


@numba.njit(**OPTIONS)
def _lambert_w0(z):
    p = math.sqrt(2 * max(0.0, 1 + math.e * z))
    w = min(0.0, -1 + p * (1 - p * (1 / 3 - p * (11 / 72 - p * (43 / 540 - p * (769 / 17280))))))
    if p < 1e-3:
        return w
    for _ in range(4):
        e = math.exp(w)
        f = w * e - z
        w -= f / (e * (w + 1) - (w + 2) * f / (2 * w + 2))
    return w


@numba.njit(**OPTIONS)
def _crossing(v, i, left, leak, fade, constants):
    """When V first reaches the threshold, as `Membrane.crossing`, for one neuron, in double precision.

    What a spike decays by and what the whole interval does tell which comes first: where there is a closed form without
    Lambert's W, only a neuron that does spike needs a logarithm, and none needs an exponential.

    Args:
        v: Potential.
        i: Current.
        left: Time until the next input spike.
        leak: What that time leaves of a potential.
        fade: What it leaves of a current.
        constants: See `forward`.

    Returns:
        The time until then, infinite where there is no crossing before the next input spike, and what it leaves of a
        potential and of a current.
    """
    tau_m, tau_s, theta, c, kind = constants
    none = math.inf, 0.0, 0.0
    if not i * tau_m > v:  # also where tau_m is infinite
        return none
    if v >= theta:
        return 0.0, 1.0, 1.0
    if kind == NO_LEAK:
        q = (theta - v) / (i * tau_s)
        return (-tau_s * math.log1p(-q), 1.0, 1 - q) if 0 <= q < 1 and 1 - q >= fade else none
    if kind == SQUARE_ROOT:
        rise, missing = i * tau_m - v, theta - v
        square = rise * rise - 4 * tau_m * i * missing
        q = 2 * missing / (rise + math.sqrt(square)) if square >= 0 else 2.0
        return (-tau_m * math.log1p(-q), 1 - q, (1 - q) * (1 - q)) if q < 1 and 1 - q >= leak else none
    if i <= 0:
        return none
    s = _by_lambert(v, i, tau_s, theta) if kind == LAMBERT else _by_search(v, i, tau_m, tau_s, theta, c)
    return (s, math.exp(-s / tau_m), math.exp(-s / tau_s)) if s <= left and s < math.inf else none


@numba.njit(**OPTIONS)
def _by_lambert(v, i, tau_s, theta):
    start = v / (i * tau_s)
    z = -theta / (i * tau_s) * math.exp(-start)
    return -tau_s * (start + _lambert_w0(z)) if z * math.e >= -1 else math.inf


@numba.njit(**OPTIONS)
def _by_search(v, i, tau_m, tau_s, theta, c):
    ratio = (tau_m * i - v) / (v + c * i)
    if not ratio > -1:
        return math.inf
    high = c * math.log1p(ratio)
    low = s = 0.0
    if not (high > 0 and v * math.exp(-high / tau_m) + i * _kernel(high, tau_m, tau_s, c) >= theta):
        return math.inf
    for _ in range(100):
        value = v * math.exp(-s / tau_m) + i * _kernel(s, tau_m, tau_s, c)
        if value < theta:
            low = s
        else:
            high = s
        after = s + (theta - value) / (i * math.exp(-s / tau_s) - value / tau_m)
        if not low <= after <= high:
            after = (low + high) / 2
        if abs(after - s) <= 2.3e-16 * after:
            return after
        s = after
    return s


@numba.njit(inline="always", fastmath=FUSED, **OPTIONS)
def _advance(v, i, row, bound, decays, later_v, later_i, near):
    """Take in an input spike and go on to the next one as if no neuron spiked; mark those that may.

    Between two input spikes V lies below its tangent as long as it rises and is above 0.

    Args:
        v: Potentials, shape (neurons,).
        i: Currents before the input spike.
        row: Its weights.
        bound: The threshold, or infinity for neurons that have had their spikes.
        decays: What a potential at its end has left of the tangent and of the exponential, the current's, and the
            interval's length and kernel.
        later_v: Filled.
        later_i: Filled.
        near: Filled with zeros and ones, one byte a neuron.
    """
    held, leak, fade, gap, kernel = decays
    for n in range(len(v)):
        current = i[n] + row[n]
        near[n] = v[n] * held + current * gap >= bound[n]
        later_v[n] = v[n] * leak + current * kernel
        later_i[n] = current * fade


@numba.njit(fastmath=FUSED, **OPTIONS)
def forward(events, places, counts, decays, weight, each, constants, times, slopes, intervals, low, high):
    """Find all spikes of some neurons.

    Args:
        events: Input spike times, shape (samples, events), of which `counts` count.
        places: Where each stands among all places of a sample's input spikes.
        counts: Of each sample.
        decays: See `Events`.
        weight: Shape (inputs, neurons).
        each: Places of an input.
        constants: tau_m, tau_s, threshold, the membrane's `difference`, and the regime.
        times: Filled, shape (samples, neurons, spikes), infinite before.
        slopes: Filled, of the same shape.
        intervals: Filled, of the same shape: the number of the input spike before which a spike fell.
        low: First neuron.
        high: The one after the last.
    """
    tau_m, tau_s, theta, c, kind = constants
    neurons, spikes = high - low, times.shape[2]
    number = weight.dtype.type
    states = np.empty((2, 2, neurons), weight.dtype)
    bound, count = np.empty(neurons, weight.dtype), np.empty(neurons, np.int64)
    near = np.zeros(-(-neurons // WORD) * WORD, np.uint8)
    words = near.view(np.uint64)
    for sample in range(len(events)):
        states[0], bound[:], count[:] = 0, theta, 0
        going, now = neurons, 0
        for e in range(counts[sample]):
            v, i, later_v, later_i = states[now, 0], states[now, 1], states[1 - now, 0], states[1 - now, 1]
            row, begin = weight[places[sample, e] // each, low:high], float(events[sample, e])
            if e + 1 < counts[sample]:
                gap = float(events[sample, e + 1]) - begin
                if gap == 0:  # more than half of the spikes of images of 256 levels
                    for n in range(neurons):
                        i[n] += row[n]
                    continue
                leak, fade, kernel = decays[0, sample, e], decays[1, sample, e], decays[2, sample, e]
                numbers = number(1 - gap / tau_m), number(leak), number(fade), number(gap), number(kernel)
                _advance(v, i, row, bound, numbers, later_v, later_i, near)
                now = 1 - now
            else:
                gap, leak, fade = math.inf, 0.0, 0.0
                near[:neurons] = bound < math.inf
            for word in range(len(words)):
                if not words[word]:
                    continue
                for n in range(word * WORD, min(neurons, word * WORD + WORD)):
                    if not near[n]:
                        continue
                    vn, in_, left, held, rest, after = float(v[n]), float(i[n] + row[n]), gap, leak, fade, 0.0
                    while count[n] < spikes:
                        wait, by_v, by_i = _crossing(vn, in_, left, held, rest, constants)
                        if wait == math.inf:
                            break
                        after += wait
                        vn, in_, left, held, rest = 0.0, in_ * by_i, left - wait, held / by_v, rest / by_i
                        times[sample, low + n, count[n]] = begin + after
                        slopes[sample, low + n, count[n]] = in_ - theta / tau_m
                        intervals[sample, low + n, count[n]] = e + 1
                        count[n] += 1
                    if count[n] == spikes:
                        going -= bound[n] < math.inf
                        bound[n] = math.inf
                    elif after > 0 or vn != v[n]:
                        closed = kind in (NO_LEAK, SQUARE_ROOT)
                        later_v[n] = in_ * (c * (held - rest) if closed else _kernel(left, tau_m, tau_s, c))
                        later_i[n] = in_ * rest
            if not going:
                break


@numba.njit(fastmath=SUMS, **OPTIONS)
def backward(
    events,
    places,
    counts,
    decays,
    weight,
    each,
    constants,
    times,
    slopes,
    intervals,
    errors,
    to_weight,
    to_times,
    low,
    high,
):
    """Go back from all spikes of some neurons: see `SpikeTimes`.

    Args:
        events: As `forward`.
        places: As `forward`.
        counts: As `forward`.
        decays: As `forward`.
        weight: As `forward`.
        each: As `forward`.
        constants: As `forward`.
        times: As `forward`.
        slopes: As `forward`.
        intervals: As `forward`.
        errors: Of the spike times, of their shape.
        to_weight: Added to, of the shape of `weight`, or without inputs.
        to_times: Filled, shape (samples, places), zero before, or without samples.
        low: First neuron.
        high: The one after the last.
    """
    tau_m, tau_s, theta, _, _ = constants
    neurons, spikes = high - low, times.shape[2]
    number = weight.dtype.type
    p, q = np.empty(neurons, weight.dtype), np.empty(neurons, weight.dtype)
    shares = np.empty((neurons, spikes))  # a_k
    # Spikes of an interval are a chain: the last one that was found, and for each the one found before it.
    chain, before = np.full(events.shape[1] + 1, -1), np.empty(neurons * spikes, np.int64)
    rate = number(1 / tau_s)
    for sample in range(len(events)):
        p[:], q[:] = 0, 0
        latest = 0
        for n in range(neurons):
            later = 0.0
            for k in range(spikes - 1, -1, -1):
                moment = times[sample, low + n, k]
                if not moment < math.inf:
                    continue
                if later != 0:
                    later *= math.exp(-(times[sample, low + n, k + 1] - moment) / tau_m)
                share = (errors[sample, low + n, k] + theta / tau_m * later) / slopes[sample, low + n, k]
                shares[n, k] = share
                later += share
                interval = intervals[sample, low + n, k]
                before[n * spikes + k] = chain[interval]
                chain[interval] = n * spikes + k
                latest = max(latest, interval)
        for e in range(latest - 1, -1, -1):
            now = events[sample, e]
            spike = chain[e + 1]
            chain[e + 1] = -1
            while spike >= 0:
                n, k = spike // spikes, spike % spikes
                leak, _, kernel = _decays(float(times[sample, low + n, k] - now), constants)
                p[n] += shares[n, k] * leak
                q[n] += shares[n, k] * kernel
                spike = before[spike]
            j = places[sample, e] // each
            if to_weight.shape[0]:
                row = to_weight[j, low:high]
                for n in range(neurons):
                    row[n] -= q[n]
            if to_times.shape[0]:
                row, total = weight[j, low:high], number(0)
                for n in range(neurons):
                    total += row[n] * (p[n] - rate * q[n])
                to_times[sample, places[sample, e]] = total
            if e and events[sample, e - 1] < now:
                leak, fade = number(decays[0, sample, e - 1]), number(decays[1, sample, e - 1])
                kernel = number(decays[2, sample, e - 1])
                for n in range(neurons):
                    q[n] = q[n] * fade + p[n] * kernel
                    p[n] *= leak

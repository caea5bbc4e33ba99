"""The two sweeps of `sweep.py` for CPUs, compiled by Numba where it is installed: one neuron after another, in cache.

Neurons of a layer do not hear of each other: each thread takes a part of them, whose gradients no other thread touches.
"""

# mypy: ignore-errors
from __future__ import annotations

import math

import numba
import numpy as np

NO_LEAK, SQUARE_ROOT, LAMBERT, SEARCH = range(4)
BLOCK = 64  # neurons
OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
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
def _crossing(v, i, tau_m, tau_s, theta, c, kind):
    """As `Membrane.crossing`, for one neuron, in double precision."""
    if not i * tau_m > v:  # also where tau_m is infinite
        return math.inf
    if v >= theta:
        return 0.0
    if kind == NO_LEAK:
        q = (theta - v) / (i * tau_s)
        return -tau_s * math.log1p(-q) if 0 <= q < 1 else math.inf
    if kind == SQUARE_ROOT:
        rise, missing = i * tau_m - v, theta - v
        square = rise * rise - 4 * tau_m * i * missing
        q = 2 * missing / (rise + math.sqrt(square)) if square >= 0 else 2.0
        return -tau_m * math.log1p(-q) if q < 1 else math.inf
    if i <= 0:
        return math.inf
    if kind == LAMBERT:
        start = v / (i * tau_s)
        z = -theta / (i * tau_s) * math.exp(-start)
        return -tau_s * (start + _lambert_w0(z)) if z * math.e >= -1 else math.inf
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


@numba.njit(**OPTIONS)
def _near(v, i, bound, held, rest, near):
    """List the neurons whose tangent reaches the bound; blocks without one are passed over in vectors."""
    found = 0
    for begin in range(0, len(v), BLOCK):
        some_v, some_i, some = v[begin : begin + BLOCK], i[begin : begin + BLOCK], bound[begin : begin + BLOCK]
        hit = 0
        for n in range(len(some)):
            hit |= some_v[n] * held + some_i[n] * rest >= some[n]
        if hit:
            for n in range(len(some)):
                if some_v[n] * held + some_i[n] * rest >= some[n]:
                    near[found] = begin + n
                    found += 1
    return found


@numba.njit(**OPTIONS)
def _open(bound, near):
    """List the neurons that may spike again."""
    found = 0
    for n in range(len(bound)):
        if bound[n] < math.inf:
            near[found] = n
            found += 1
    return found


@numba.njit(**OPTIONS)
def _equal(values, value, near):
    """List where a value stands, as `_near` does."""
    found = 0
    for begin in range(0, len(values), BLOCK):
        some = values[begin : begin + BLOCK]
        hit = 0
        for n in range(len(some)):
            hit |= some[n] == value
        if hit:
            for n in range(len(some)):
                if some[n] == value:
                    near[found] = begin + n
                    found += 1
    return found


@numba.njit(**OPTIONS)
def forward(events, inputs, counts, weight, constants, times, slopes, intervals, low, high):
    """Find all spikes of some neurons.

    Args:
        events: Input spike times, shape (events, samples), of which `counts` count.
        inputs: Which input each is.
        counts: Of each sample.
        weight: Shape (inputs, neurons).
        constants: tau_m, tau_s, threshold, the membrane's `difference`, and the regime.
        times: Filled, shape (spikes, samples, neurons), infinite before.
        slopes: Filled, of the same shape.
        intervals: Filled, of the same shape: the number of the input spike before which a spike fell.
        low: First neuron.
        high: The one after the last.
    """
    tau_m, tau_s, theta, c, kind = constants
    neurons, spikes = high - low, len(times)
    number = weight.dtype.type
    v, i, bound = np.empty(neurons, weight.dtype), np.empty(neurons, weight.dtype), np.empty(neurons, weight.dtype)
    count = np.empty(neurons, np.int64)
    near, who = np.empty(neurons, np.int64), np.empty(neurons, np.int64)
    later_v, later_i = np.empty(neurons), np.empty(neurons)
    for sample in range(events.shape[1]):
        v[:], i[:], bound[:], count[:] = 0, 0, theta, 0
        for e in range(counts[sample] + 1):
            last = e == counts[sample]
            if e:
                begin = events[e - 1, sample]
                gap = math.inf if last else events[e, sample] - begin
                leak, fade = number(math.exp(-gap / tau_m)), number(math.exp(-gap / tau_s))
                kernel = number(0.0 if last else _kernel(gap, tau_m, tau_s, c))
                held, rest = number(1 - gap / tau_m), number(gap)
                few = _open(bound, near) if last else _near(v, i, bound, held, rest, near)
                found = 0
                for place in range(few):
                    n = near[place]
                    vn, in_, left, after = float(v[n]), float(i[n]), float(gap), 0.0
                    while count[n] < spikes:
                        wait = _crossing(vn, in_, tau_m, tau_s, theta, c, kind)
                        if not (wait <= left and wait < math.inf):
                            break
                        after += wait
                        vn, in_, left = 0.0, in_ * math.exp(-wait / tau_s), left - wait
                        times[count[n], sample, low + n] = begin + after
                        slopes[count[n], sample, low + n] = in_ - theta / tau_m
                        intervals[count[n], sample, low + n] = e
                        count[n] += 1
                    if after > 0 or vn != v[n]:
                        who[found] = n
                        later_v[found] = vn * math.exp(-left / tau_m) + in_ * _kernel(left, tau_m, tau_s, c)
                        later_i[found] = in_ * math.exp(-left / tau_s)
                        found += 1
                        if count[n] == spikes:
                            bound[n] = math.inf
                if last:
                    break
                for n in range(neurons):
                    v[n] = v[n] * leak + i[n] * kernel
                    i[n] *= fade
                for k in range(found):
                    v[who[k]], i[who[k]] = later_v[k], later_i[k]
            elif last:
                break
            row = weight[inputs[e, sample], low:high]
            for n in range(neurons):
                i[n] += row[n]


@numba.njit(fastmath=SUMS, **OPTIONS)
def backward(
    events, inputs, counts, weight, constants, times, slopes, intervals, errors, to_weight, to_times, low, high
):
    """Go back from all spikes of some neurons: see `SpikeTimes`.

    Args:
        events: As `forward`.
        inputs: As `forward`.
        counts: As `forward`.
        weight: As `forward`.
        constants: As `forward`.
        times: As `forward`.
        slopes: As `forward`.
        intervals: As `forward`.
        errors: Of the spike times, of their shape; a_k takes their place.
        to_weight: Added to, of the shape of `weight`, or without inputs.
        to_times: Filled, of the shape of `events`, or without events.
        low: First neuron.
        high: The one after the last.
    """
    tau_m, tau_s, theta, c, _ = constants
    neurons = high - low
    number = weight.dtype.type
    p, q = np.empty(neurons, weight.dtype), np.empty(neurons, weight.dtype)
    pending, interval = np.empty(neurons, np.int32), np.empty(neurons, np.int32)
    near = np.empty(neurons, np.int64)
    for sample in range(events.shape[1]):
        p[:], q[:] = 0, 0
        for n in range(neurons):
            k, later = 0, 0.0
            while k < len(times) and times[k, sample, low + n] < math.inf:
                k += 1
            pending[n] = k - 1
            interval[n] = intervals[k - 1, sample, low + n] if k else -1
            for z in range(k - 1, -1, -1):
                if z < k - 1:
                    later *= math.exp(-(times[z + 1, sample, low + n] - times[z, sample, low + n]) / tau_m)
                share = (errors[z, sample, low + n] + theta / tau_m * later) / slopes[z, sample, low + n]
                errors[z, sample, low + n] = share
                later += share
        for e in range(counts[sample] - 1, -1, -1):
            now = events[e, sample]
            for place in range(_equal(interval, np.int32(e + 1), near)):
                n = near[place]
                while interval[n] == e + 1:
                    k = pending[n]
                    after = float(times[k, sample, low + n] - now)
                    p[n] += errors[k, sample, low + n] * math.exp(-after / tau_m)
                    q[n] += errors[k, sample, low + n] * _kernel(after, tau_m, tau_s, c)
                    pending[n] = k - 1
                    interval[n] = intervals[k - 1, sample, low + n] if k else -1
            j = inputs[e, sample]
            if to_weight.shape[0]:
                row = to_weight[j, low:high]
                for n in range(neurons):
                    row[n] -= q[n]
            if to_times.shape[0]:
                row, total, rate = weight[j, low:high], number(0), number(1 / tau_s)
                for n in range(neurons):
                    total += row[n] * (p[n] - rate * q[n])
                to_times[e, sample] = total
            if e:
                gap = now - events[e - 1, sample]
                leak, fade = number(math.exp(-gap / tau_m)), number(math.exp(-gap / tau_s))
                kernel = number(_kernel(gap, tau_m, tau_s, c))
                for n in range(neurons):
                    q[n] = q[n] * fade + p[n] * kernel
                    p[n] *= leak

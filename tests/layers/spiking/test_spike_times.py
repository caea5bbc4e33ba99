"""Spike times of a layer and their gradients, beside a fine-step simulation and finite differences."""

import importlib.util
import math

import pytest
import torch
from spike_regimes import REGIMES

from beyondprop.layers.spiking import sweep
from beyondprop.layers.spiking.sweep import Options, SpikeTimes


def layer_spikes(times, weight, membrane, spikes=20):
    return SpikeTimes.apply(times, weight, membrane, Options(spikes))


def problem(membrane, seed, *, batch=2, inputs=5, neurons=3, each=2, drive=3.0):
    """Random input spikes, some absent, and weights under which neurons spike from never to many times."""
    generator = torch.Generator().manual_seed(seed)
    times = 3 * membrane.tau_s * torch.rand(batch, inputs, each, generator=generator, dtype=torch.float64)
    times[torch.rand(times.shape, generator=generator) < 0.2] = math.inf
    weight = torch.randn(neurons, inputs, generator=generator, dtype=torch.float64)
    weight += drive * torch.rand(neurons, 1, generator=generator, dtype=torch.float64)
    return times, weight * membrane.threshold / membrane.peak() * 0.6


def simulated(times, weight, membrane, end, steps):
    """Spike times of one sample by small steps: V and I move by their differential equations, nothing else is used.

    Two stages a step (the midpoint rule), input spikes where they fall, linear interpolation of the crossing.
    """
    arrivals = sorted((float(t), j) for j, row in enumerate(times) for t in row if t < math.inf)
    rate = 0.0 if math.isinf(membrane.tau_m) else 1 / membrane.tau_m
    found = []
    for row in weight:
        v, i, now, pending, mine = 0.0, 0.0, 0.0, list(arrivals), []
        while now < end:
            step = end / steps
            if pending and pending[0][0] <= now + step:
                step = pending[0][0] - now
            half_v = v + step / 2 * (i - rate * v)
            half_i = i * (1 - step / 2 / membrane.tau_s)
            after_v = v + step * (half_i - rate * half_v)
            after_i = i - step * half_i / membrane.tau_s
            if after_v >= membrane.threshold > v:
                share = (membrane.threshold - v) / (after_v - v)
                now += share * step
                mine.append(now)
                v, i = 0.0, i + share * (after_i - i)
                continue
            v, i, now = after_v, after_i, now + step
            while pending and pending[0][0] <= now:
                i += float(row[pending.pop(0)[1]])
        found.append(mine)
    return found


def test_spike_times_are_those_of_a_fine_simulation(path, membrane):
    times, weight = problem(membrane, 1, batch=1, neurons=3)
    end = 6 * membrane.tau_s
    slow = simulated(times[0], weight, membrane, end, 6000)
    fast = [row[row < end].tolist() for row in layer_spikes(times, weight, membrane, 60)[0]]
    assert [len(row) for row in fast] == [len(row) for row in slow]
    assert 5 < sum(len(row) for row in fast) < 180
    for mine, theirs in zip(fast, slow, strict=True):
        assert mine == pytest.approx(theirs, abs=5e-4 * membrane.tau_s)


STENCIL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}  # of central differences of fourth order


def moved(x, h):
    """For every finite entry of x four copies of it in which that entry is moved; and the entries."""
    entries = x.isfinite().view(-1).nonzero().view(-1)
    copies = x.repeat(len(entries), len(STENCIL), *[1] * x.ndim)
    for row, entry in zip(copies, entries, strict=True):
        for copy, steps in zip(row, STENCIL, strict=True):
            copy.view(-1)[entry] += steps * h
    return copies, entries


def differences(totals, entries, x, h):
    """The derivative with respect to every entry, from the totals of its copies, shape (entries, 4)."""
    found = torch.zeros_like(x)
    found.view(-1)[entries] = totals @ torch.tensor(list(STENCIL.values()), dtype=x.dtype) / h
    return found


def agree(gradient, expected):
    assert expected.abs().max() > 0
    assert (gradient - expected).abs().max() < 1e-8 * expected.abs().max()


@pytest.mark.parametrize("spikes", [1, 2, 5, 20])
def test_gradients_of_every_spike_time_are_those_of_finite_differences(path, membrane, spikes):
    times, weight = problem(membrane, 3, drive=6.0 if math.isinf(membrane.tau_m) else 3.0)
    found = layer_spikes(times, weight, membrane, spikes)
    fired = found.isfinite()
    assert fired.sum(2).max() == spikes
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = torch.where(fired, factors, 0.0)
    h = 1e-5 * membrane.tau_s
    batch, neurons, inputs = len(times), *weight.shape

    copies, entries = moved(times, h)
    spread = layer_spikes(copies.flatten(0, 2), weight, membrane, spikes).view(-1, 4, *found.shape)
    by_time = differences((factors * spread.where(fired, 0)).sum((2, 3, 4)), entries, times, h)
    copies, entries = moved(weight, h)
    spread = layer_spikes(times, copies.view(-1, inputs), membrane, spikes).view(batch, -1, 4, neurons, spikes)
    weighed = (factors[:, None, None] * spread.where(fired[:, None, None], 0)).sum((0, 3, 4))
    by_weight = differences(weighed, entries, weight, h)

    times, weight = times.requires_grad_(), weight.requires_grad_()
    found = layer_spikes(times, weight, membrane, spikes)
    (factors * found.where(fired, 0)).sum().backward()
    agree(weight.grad, by_weight)
    agree(times.grad, by_time)


def test_gradients_through_two_layers_are_those_of_finite_differences(path):
    membrane, other = REGIMES["tau_m = 2 tau_s"], REGIMES["any"]
    times, first = problem(membrane, 5, batch=2, inputs=3, neurons=3)
    second = problem(other, 6, inputs=3, neurons=2)[1]

    def network(times, first, second):
        return layer_spikes(layer_spikes(times, first, membrane, 5), second, other, 5)

    fired = network(times, first, second).isfinite()
    assert fired.sum() > 8
    factors = torch.randn(fired.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * fired
    h = 1e-5
    leaves = [x.clone().requires_grad_() for x in (times, first, second)]
    (factors * network(*leaves).where(fired, 0)).sum().backward()
    for place, leaf in enumerate(leaves):
        copies, entries = moved(leaf.detach(), h)
        totals = torch.zeros(len(entries), 4, dtype=torch.float64)
        for at in torch.cartesian_prod(torch.arange(len(entries)), torch.arange(4)).tolist():
            parts = [times, first, second]
            parts[place] = copies[tuple(at)]
            totals[tuple(at)] = (factors * network(*parts).where(fired, 0)).sum()
        agree(leaf.grad, differences(totals, entries, leaf.detach(), h))


def test_both_paths_give_the_same(membrane, monkeypatch):
    if importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    found = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(sweep, "compiled", lambda _module: None)
        times, weight = (x.requires_grad_() for x in problem(membrane, 11, batch=5, inputs=30, neurons=7))
        own = SpikeTimes.apply(times, weight, membrane, Options(6, least_slope=0.1, lift=0.2, bump=0.1, silence=0.1))
        own.where(own.isfinite(), 0.0).square().sum().backward()
        found.append((own.detach(), times.grad, weight.grad))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_threads_share_the_neurons(membrane):
    if importlib.util.find_spec("numba") is None:
        pytest.skip("Numba is not installed")
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            times, weight = (x.requires_grad_() for x in problem(membrane, 12, neurons=7))
            own = layer_spikes(times, weight, membrane, 6)
            own.where(own.isfinite(), 0.0).square().sum().backward()
            found.append((own.detach(), times.grad, weight.grad))
    finally:
        torch.set_num_threads(threads)
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)

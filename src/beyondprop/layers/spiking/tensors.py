"""The two sweeps of `sweep.py` by tensor operations on any device: all samples and neurons at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from beyondprop.layers.spiking.events import Columns, at_least
from beyondprop.layers.spiking.membrane import Membrane

WINDOW = 16  # input spikes that are taken at once where neurons spike several times; more cost memory, fewer calls


@dataclass
class Near:
    """Neurons that may spike in an interval between two input spikes, in the order of the intervals.

    Attributes:
        neurons: Index into (samples, neurons), flattened; the same neuron may stand in several intervals.
        interval: Number of the input spike that ends the interval.
        v: Potential after the input spike that begins it.
        i: Current then.
        start: When the interval begins.
        rest: How long it lasts.
        sure: Whether V is above the threshold at the end, so that the neuron has spiked whatever rounding says.
    """

    neurons: Tensor
    interval: Tensor
    v: Tensor
    i: Tensor
    start: Tensor
    rest: Tensor
    sure: Tensor

    @classmethod
    def joined(cls, parts: list[Near]) -> Near:
        """All of several, one after the other."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def chosen(self, which: Tensor) -> Near:
        """Some of them."""
        return Near(*(getattr(self, f.name)[which] for f in fields(self)))


class Forward:
    """States of a layer of (samples, neurons) while the input spikes arrive.

    Between two input spikes V lies below its tangent as long as it rises and is above 0: only neurons whose V or whose
    tangent reaches the threshold before the next input spike are looked at closely. That is done for a window of input
    spikes at once. Within it V goes on as if nothing had spiked; the equations are linear, so that a spike at t_z takes
    θ e^(-(t - t_z)/tau_m) off everything later, and what never reached the threshold without that does not with it.
    """

    def __init__(self, membrane: Membrane, weight: Tensor, events: Columns, spikes: int) -> None:
        samples, neurons = len(events.order), weight.shape[1]
        self.membrane, self.weight, self.events = membrane, weight, events
        self.v, self.i, self.reach = weight.new_zeros(3, samples, neurons).unbind()
        self.now = weight.new_zeros(samples)
        self.count = torch.zeros(samples * neurons, dtype=torch.int64, device=weight.device)
        self.times = weight.new_full((spikes, samples * neurons), torch.inf)
        self.slopes = torch.ones_like(self.times)
        self.intervals = torch.full_like(self.times, -1, dtype=torch.int32)

    def run(self, inputs: Tensor) -> None:
        """Take in all input spikes.

        Args:
            inputs: Which input each event belongs to, shape (events, samples).
        """
        events, membrane, once = self.events, self.membrane, len(self.times) == 1
        gap = events.times.diff(dim=0)[..., None]
        leak, fade, kernel = events.decays
        held = 1 - gap / membrane.tau_m
        window = len(events.active) if once else WINDOW
        near: list[Near] = []
        numbers = torch.arange(len(events.active), dtype=torch.int32, device=gap.device)
        for e, n in enumerate(events.active):
            if e:
                v, i, reach, at = self.v[:n], self.i[:n], self.reach[:n], e - 1
                torch.mul(v, held[at, :n], out=reach).addcmul_(i, gap[at, :n])
                if not once:
                    torch.maximum(reach, v, out=reach)
                found = at_least(reach, membrane.threshold)
                if len(found):
                    near.append(self._near(found, numbers[e], gap[at]))
                v.mul_(leak[at, :n]).addcmul_(i, kernel[at, :n])
                i.mul_(fade[at, :n])
                if once and len(found):
                    near[-1].sure = self.v.view(-1)[found] >= membrane.threshold
                    self.i.view(-1)[found[near[-1].sure]] = -math.inf
            self.now[:n] = events.times[e, :n]
            self.i[:n].add_(self.weight.index_select(0, inputs[e, :n]))
            if near and (e % window == window - 1 or e == len(events.active) - 1):
                self.settle(Near.joined(near))
                near = []
        rising = at_least(self.i - self.v / membrane.tau_m, 0.0)
        if len(rising):
            endless = torch.full_like(self.now, math.inf)
            self.settle(self._near(rising, events.counts.int(), endless[:, None]), last=True)

    def _near(self, neurons: Tensor, interval: Tensor, gap: Tensor) -> Near:
        sample = neurons.div(self.v.shape[1], rounding_mode="floor")
        v, i, start, rest = self.v.view(-1)[neurons], self.i.view(-1)[neurons], self.now[sample], gap[sample, 0]
        return Near(
            neurons, interval.expand(len(self.now))[sample], v, i, start, rest, torch.zeros_like(v, dtype=torch.bool)
        )

    def settle(self, near: Near, *, last: bool = False) -> None:
        """Find the spikes of a window, round by round each neuron's next one; then correct the states behind it.

        Args:
            near: Where they may be.
            last: Whether nothing comes behind it.
        """
        membrane, spikes = self.membrane, len(self.times)
        while len(near.neurons):
            wait = membrane.crossing(near.v, near.i)
            wait = torch.where(near.sure, torch.minimum(wait, near.rest), wait)
            place = torch.arange(len(wait), device=wait.device)
            hits = ((wait <= near.rest) & (wait < math.inf)).nonzero().view(-1)
            if not len(hits):
                return
            none = len(wait)
            first = torch.full_like(self.count, none).scatter_reduce_(0, near.neurons[hits], hits, "amin")
            mine = first[near.neurons]
            hits = hits[mine[hits] == hits]
            spike, wait = near.chosen(hits), wait[hits]
            current, number = spike.i * membrane.fade(wait), self.count[spike.neurons]
            moment = spike.start + wait
            self.times[number, spike.neurons] = moment
            self.slopes[number, spike.neurons] = membrane.slope(current)
            self.count[spike.neurons] = number + 1
            self.intervals[number, spike.neurons] = spike.interval
            done = number + 1 >= spikes
            if not last:
                sample = spike.neurons.div(self.v.shape[1], rounding_mode="floor")
                self.v.view(-1)[spike.neurons] -= membrane.threshold * membrane.leak(self.now[sample] - moment)
                # A current of minus infinity keeps a neuron that has had all its spikes from ever being near.
                self.i.view(-1)[spike.neurons[done]] = -math.inf
            if bool(done.all()):
                return
            near.v[hits], near.i[hits], near.start[hits] = 0.0, current, moment
            near.rest[hits] -= wait
            first[spike.neurons[done]] = none
            mine = first[near.neurons]
            latest = torch.zeros_like(self.v).view(-1)
            latest[spike.neurons] = moment
            later = place > mine
            near.v[later] -= membrane.threshold * membrane.leak((near.start - latest[near.neurons])[later])
            near = near.chosen(((place >= mine) & (mine < none)).nonzero().view(-1))


def couple(errors: Tensor, times: Tensor, slopes: Tensor, membrane: Membrane) -> Tensor:
    """Compute a_k: errors of spike times over slopes, with what earlier spikes do to later ones by their reset.

    Args:
        errors: Derivatives of the loss with respect to the times.
        times: Shape (spikes, neurons).
        slopes: V' at each.
        membrane: Of the neurons.
    """
    fired = torch.isfinite(times)
    shares = torch.where(fired, errors / slopes, 0.0)
    if math.isinf(membrane.tau_m) or len(times) == 1:
        return shares
    later = torch.zeros_like(times[0])
    for k in range(len(times) - 2, -1, -1):
        gap = torch.where(fired[k + 1], times[k + 1] - times[k], math.inf)
        later = (later + shares[k + 1]) * membrane.leak(gap)
        shares[k] += torch.where(fired[k], membrane.threshold / membrane.tau_m * later / slopes[k], 0.0)
    return shares


class Backward:
    """P and Q of `SpikeTimes` of all samples and neurons, on their way back through time.

    Args:
        membrane: Of the neurons.
        events: The input spikes.
        times: Of the output spikes, shape (spikes, samples · neurons).
        intervals: In which they fell.
        shares: a_k of each.
    """

    def __init__(self, membrane: Membrane, events: Columns, times: Tensor, intervals: Tensor, shares: Tensor) -> None:
        self.membrane, self.events = membrane, events
        samples = len(events.order)
        self.p, self.q = shares.new_zeros(2, samples, shares.shape[1] // samples).unbind()
        number, neurons = torch.isfinite(times).nonzero(as_tuple=True)
        sample = neurons.div(self.p.shape[1], rounding_mode="floor")
        interval = intervals[number, neurons].long()
        behind = interval == events.counts[sample]  # the last input spike of its sample
        order = torch.where(behind, len(events.active), interval).argsort(stable=True)
        counts = torch.bincount(torch.where(behind, len(events.active), interval), minlength=len(events.active) + 1)
        number, neurons, sample, interval = (part[order] for part in (number, neurons, sample, interval))
        after = times[number, neurons] - events.times[interval - 1, sample]
        share = shares[number, neurons]
        added = (neurons, share * membrane.leak(after), share * membrane.kernel(after))
        self._added = list(zip(*(part.split(counts.tolist()) for part in added), strict=True))

    def run(self, inputs: Tensor, columns: Tensor, weight: Tensor | None, arrivals: Tensor | None) -> None:
        """Go back, and add to gradients.

        Args:
            inputs: Which input each event belongs to, shape (events, samples).
            columns: Weights, shape (inputs, neurons).
            weight: Their gradient, of the same shape, or None.
            arrivals: Gradient of the events' times, shape (events, samples), or None.
        """
        events = self.events
        leak, fade, kernel = events.decays
        self._add(len(events.active))
        for e in range(len(events.active) - 1, -1, -1):
            n = events.active[e]
            at, p, q = inputs[e, :n], self.p[:n], self.q[:n]
            if weight is not None:
                weight.index_add_(0, at, q, alpha=-1)
            if arrivals is not None:
                rates = torch.add(p, q, alpha=-1 / self.membrane.tau_s)
                arrivals[e, :n] = rates.mul_(columns.index_select(0, at)).sum(1)
            if e:
                q.mul_(fade[e - 1, :n]).addcmul_(p, kernel[e - 1, :n])
                p.mul_(leak[e - 1, :n])
                self._add(e)

    def _add(self, interval: int) -> None:
        """Take in the output spikes of an interval, at its beginning."""
        neurons, to_p, to_q = self._added[interval]
        if len(neurons):
            self.p.view(-1).index_add_(0, neurons, to_p)
            self.q.view(-1).index_add_(0, neurons, to_q)

"""Simulating Hawkes processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from beyondprop.data.events import EventSequences, event_sequences
from beyondprop.errors import UserError


def simulate_hawkes(
    base: Any, excitation: Any, decay: Any, *, until: float, sequences: int, seed: int, most: int = 100_000
) -> EventSequences:
    """Simulate by thinning (Ogata, 1981), all sequences at once.

    Between two events the intensity only falls, so that its present value is a bound: a candidate comes at this rate,
    and is kept with the probability by which the intensity there falls short of it.

    Args:
        base: mu, shape (marks,), events in a unit of time.
        excitation: alpha, shape (marks, marks) or (marks, marks, decays): offspring of kind m that an event of kind k
            has.
        decay: beta, a number, or shape (decays,), in 1 over the unit of time.
        until: Each sequence is observed from 0 until then.
        sequences: How many.
        seed: Of the draws.
        most: Events of one sequence at which it is given up.

    Returns:
        The sequences that have an event, with their ends.

    Raises:
        UserError: Numbers are negative, every event has one or more offspring on average, so that events pile up
            without end, or no sequence has any event.
    """
    mu, alpha, beta = np.asarray(base, float), np.asarray(excitation, float), np.atleast_1d(np.asarray(decay, float))
    alpha = alpha[..., None] if alpha.ndim == 2 else alpha
    marks = len(mu)
    if alpha.shape != (marks, marks, len(beta)) or mu.min() < 0 or alpha.min() < 0 or beta.min() <= 0:
        raise UserError(
            "base (marks,), excitation (marks, marks, decays) and decay must fit, and hold nothing negative"
        )
    if (radius := np.abs(np.linalg.eigvals(alpha.sum(2))).max()) >= 1:
        raise UserError(f"an event has {radius:.3g} offspring on average: the process explodes; keep it below 1")
    generator = np.random.default_rng(seed)
    now, state = np.zeros(sequences), np.zeros((sequences, marks, len(beta)))  # state: excited intensity of each kind
    owner, times, kinds = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    running, count = np.arange(sequences), np.zeros(sequences, int)
    while len(running):
        bound = mu.sum() + state[running].sum((1, 2))
        wait = generator.exponential(1 / np.maximum(bound, 1e-300))
        now[running] += wait
        inside = now[running] < until
        running, wait, bound = running[inside], wait[inside], bound[inside]
        state[running] *= np.exp(-wait[:, None] * beta)[:, None]
        rates = mu + state[running].sum(2)
        place = generator.random(len(running)) * bound
        reached = np.cumsum(rates, 1)
        kept = place < reached[:, -1]
        kind = np.minimum((place[:, None] >= reached).sum(1), marks - 1)[kept]
        who = running[kept]
        state[who] += np.moveaxis(alpha[:, kind] * beta, 1, 0)
        owner.append(who)
        times.append(now[who].copy())
        kinds.append(kind)
        count[who] += 1
        if len(who) and count.max() > most:
            raise UserError(f"a sequence has more than {most} events: lower `until` or the excitation")
    rows, when, what = (np.concatenate(part) for part in (owner, times, kinds))
    if len(rows) == 0:
        raise UserError("no event came: raise `until` or the base rates")
    order = np.lexsort((when, rows))
    there, sizes = np.unique(rows, return_counts=True)
    return event_sequences(
        when[order],
        what[order],
        np.concatenate(([0], np.cumsum(sizes))),
        ends=np.full(len(there), float(until)),
        labels=marks,
        name="simulated",
    )

"""Speed of GCHP beside its official code: a training epoch, and making the graphs.

    python benchmarks/point_processes.py --gchp Graph-Convolutional-Hawkes-Processes-GCHP

Both sides train the network of two graph convolutions, width 32, dropout 0.1, exponential kernel normalised twice, by
Adam on batches of 3000 events of the synthetic Hawkes data (`$BEYONDPROP_DATA/point-processes`), or of simulated data
where those are not there. The peer is github.com/ltz0120/Graph-Convolutional-Hawkes-Processes-GCHP at commit 07be432:

    git clone https://github.com/ltz0120/Graph-Convolutional-Hawkes-Processes-GCHP
    git -C Graph-Convolutional-Hawkes-Processes-GCHP checkout 07be432e5fa760d634a36823d95ad3a809960d98

Its own `fit` runs its own epoch. It cannot run without CUDA: its device is overwritten by a number. That number is
replaced here, from outside, by the CPU; nothing else is patched. It needs pandas. Without a checkout its values are
null.

Its epoch reads graphs that were made beforehand, by a Python loop over all events (`EventSampler`). That has a row of
its own, measured on some of the sequences. Ours makes them anew for every batch, and this is in its epoch. Before
anything is timed, the graphs of both sides must agree. Sides take turns, figures are medians; glibc is told to keep
freed memory, on both sides alike.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.data import Batches
from beyondprop.data.event_files import load_events
from beyondprop.data.events import EventSequences
from beyondprop.errors import DataError
from beyondprop.point_processes import GCHP, simulate_hawkes
from beyondprop.point_processes.graph import edges_of, windows_of
from beyondprop.training.runs import use_processor

OUT = Path(__file__).resolve().parent / "results" / "point_processes.json"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
PEER = "ltz0120/Graph-Convolutional-Hawkes-Processes-GCHP@07be432"
COMMIT = "07be432e5fa760d634a36823d95ad3a809960d98"
BANDWIDTH = 2.0  # in the data's own unit, as the peer's train.py has it
CPU = torch.device("cpu")


def events_of(short: bool) -> tuple[EventSequences, str]:
    """The sequences, and what they are."""
    if not short:
        try:
            return load_events("hawkes")[0], "synthetic Hawkes"
        except DataError as error:
            print(f"simulated data, for {error}", file=sys.stderr)
    base, excitation = [0.1] * 10, [[0.3 if m == k else 0.02 for k in range(10)] for m in range(10)]
    count = 4 if short else 100
    return simulate_hawkes(base, excitation, 2.0, until=180.0, sequences=count, seed=0), "simulated Hawkes"


def dense(edges: Any, size: int, count: int) -> Tensor:
    """The matrix of each window, (windows, K, K)."""
    columns = [edges.product(torch.eye(size)[:, k].view(size, 1, 1).expand(size, 1, count)) for k in range(size)]
    return torch.cat(columns, 1).permute(2, 0, 1).contiguous()


def graphs(events: EventSequences, size: int) -> tuple[Any, Tensor, Tensor]:
    """Ours: edges, marks (K, windows) and targets of all windows that are full."""
    pieces = events.pieces(history=size, first=size)
    gaps, marks = windows_of(pieces.images, pieces.labels, size)
    return edges_of(gaps, marks >= 0, "exponential", BANDWIDTH, 2), marks, pieces.labels[:, -1]


def peer_modules(checkout: Path) -> tuple[Any, Any]:
    """The peer's model and data loader."""
    check(checkout)
    sys.path.insert(0, str(checkout.resolve()))
    sys.dont_write_bytecode = True
    import DataLoader__  # noqa: PLC0415
    import GCHP_models  # noqa: PLC0415

    logging.getLogger("dev.util").setLevel(logging.WARNING)
    return GCHP_models, DataLoader__


def check(checkout: Path) -> None:
    """Refuse another commit; files of data may be absent."""
    import subprocess  # noqa: PLC0415

    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    if (head := subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()) != COMMIT:
        raise SystemExit(f"{checkout} is not a checkout of {COMMIT}: its commit is {head or 'unknown'}")


def sampler(loader: Any, events: EventSequences, size: int) -> Any:
    """The peer's graphs, made by its loop."""
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    owner = np.repeat(np.arange(len(events)), np.diff(events.offsets))
    frame = pd.DataFrame({"seq_no": owner, "timestamp": events.times, "x0": events.marks})
    return loader.EventSampler(frame, size, batch_size=10**9, kernel_bandwidth=BANDWIDTH, categorical=True)


def peer_epoch(models: Any, made: tuple[Any, Tensor, Tensor], size: int, batch: int, classes: int) -> Any:
    """One epoch of the peer's own fit."""
    edges, marks, targets = made
    kernels = dense(edges, size, marks.shape[1])
    codes = torch.nn.functional.one_hot(marks.T.long(), classes).float()
    batches = [
        (a, x, t.unsqueeze(1), m.long())
        for a, x, t, m in zip(
            kernels.split(batch), codes.split(batch), *(c.split(batch) for c in targets.unbind(1)), strict=True
        )
    ]
    names = {"categorical": True, "nfeat": classes, "memory_size": size, "theta": 1.0, "eta": 1.0, "record_gc": False}
    names |= {"device": 0, "n1hid": 32, "n2hid": 32, "dropout": 0.1, "record": False, "model": "GCN_two_layer"}
    with contextlib.redirect_stdout(io.StringIO()):
        model = models.GCHP_model({**names, "dataset": "", "loss_type": "likelihood"})
    model.device = CPU
    optimizer = torch.optim.Adam(model.model.parameters(), lr=1e-3, weight_decay=1e-8)
    return lambda: model.fit(batches, optimizer, 1, verbose=False)


def our_epoch(events: EventSequences, size: int, batch: int) -> Any:
    """One epoch of ours."""
    pieces = events.pieces(history=size, first=size)
    model = GCHP(
        events.classes, mean_gap=pieces.mean_gap, window=size, normalisations=2, bandwidth=BANDWIDTH * pieces.mean_gap
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-8, fused=True)
    batches = Batches(pieces, batch, shuffle=True)

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad()
            model.backward(x, y)
            optimizer.step()

    return epoch


def once(call: Any) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gchp", type=Path, help="checkout of the official code")
    parser.add_argument("--windows", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--batch", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--short", action="store_true", help="a few simulated sequences, to see that it runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    events, kind = events_of(options.short)
    few = events.subset(range(min(len(events), 5)))
    peer = peer_modules(options.gchp) if options.gchp else None
    rows: list[Row] = []
    with use_processor(options.threads):
        for size in options.windows:
            made, taken_peer = graphs(few, size), None
            ours = min(once(lambda size=size: graphs(few, size)) for _ in range(3))
            if peer:
                start = time.perf_counter()
                theirs = sampler(peer[1], few, size)
                taken_peer = time.perf_counter() - start
                wanted = torch.tensor(theirs.kernel_matrix_list)
                torch.testing.assert_close(dense(made[0], size, len(wanted)), wanted, rtol=1e-4, atol=1e-5)
            case = f"{kind}, graphs of {made[1].shape[1]} events, window {size}"
            rows.append(compare(case, "seconds", ours, PEER, taken_peer, less_is_better=True))
            made = graphs(events, size)
            calls = {"ours": our_epoch(events, size, options.batch)}
            if peer:
                calls[PEER] = peer_epoch(peer[0], made, size, options.batch, events.classes)
            seconds = {name: spread(each)[1] for name, each in interleave(calls, options.rounds, 2, CPU).items()}
            case = f"{kind}, an epoch of {made[1].shape[1]} events, window {size}, batch {options.batch}"
            rows.append(compare(case, "seconds", seconds["ours"], PEER, seconds.get(PEER), less_is_better=True))
        for row in rows:
            print(f"{row.case:75} {row.ours:10.4g} {row.peer_value or '':10} {row.ratio or ''}")
        write_results(options.out, environment(CPU), rows)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    main()

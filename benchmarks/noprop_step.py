"""Speed and memory of one NoProp-DT training step: ours beside a plain loop, a public peer, and back-propagation.

    python benchmarks/noprop_step.py --rounds 20 --peer /path/to/NoPropLLM

A step is zero_grad, the losses and gradients of all T = 10 blocks, and AdamW (lr 1e-3, weight decay 1e-3), on one batch
of 128 random images of MNIST's shape; the block is the paper's (arXiv 2503.24322, Figure 6; 32, 64 and 128
channels, hidden 256, one-hot embedding). All sides run in one process, one step of each in every round.

Ours is `NoPropDT` with fused AdamW and channels_last, in float32 and under bf16 autocast. Beside it stand:

- A plain loop in float32 with torch's default layout and stock modules, written out below: the same mathematics.
- github.com/eoghanf/NoPropLLM at commit e05bbb3, of which --peer gives a checkout:

      git clone https://github.com/eoghanf/NoPropLLM && git -C NoPropLLM checkout e05bbb3

  Its trainer's own epoch runs over a loader of one batch: its loss (plain mean squared error, no SNR weights, no head),
  gradient clipping, one AdamW a block, one `.item()` a block. Nothing in its files is changed; patched from here:
  `torchvision` is stubbed (its package imports it for data sets, which are not used); its logger, which writes files
  for every batch, and the statistics of an epoch's losses do nothing; its prints go nowhere.
  Its block has two convolutions (32 and 64 channels) where the paper has three, a quarter of the operations, and no
  argument to change that. So it stands here twice: with `image_conv` replaced by the paper's three convolutions in its
  own order of layers, beside ours; and as it is, beside ours with its two convolutions.
- Back-propagation through the same ten blocks (the paper's baseline, `ResidualChain`), as fast as ours: fused,
  channels_last, float32 and bf16.
- Our own batched blocks, `NoPropDT(..., execution="batched")`, at this size and at that of `noprop-dt/digits` (images
  of 8x8; 16, 32 and 64 channels, hidden 64), beside our loop in the same precision, which is the peer of these rows.

Memory is counted tensor by tensor (`beyondprop.measure`), the same on every machine; on CUDA also by the allocator.
Without --peer its rows keep null.
"""

from __future__ import annotations

import argparse
import math
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from _noprop_sides import (
    ADAMW,
    CLASSES,
    PEER,
    Cost,
    Side,
    Size,
    backprop,
    batch,
    cost,
    features,
    import_peer,
    noprop,
    noprop_two_convolutions,
    peer_side,
    three_convolutions,
)
from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.rules.local.noprop import cosine_schedule

OUT = Path(__file__).resolve().parent / "results" / "noprop_step.json"
PRECISIONS = ("float32", "bf16")
PLAIN_LOOP, PEER_THREE, PEER_TWO = "plain loop", f"{PEER}, three convolutions", f"{PEER}, as it is"


# ----------------------------------------------------------------------------------------------------------- plain loop


class PlainBlock(nn.Module):
    """The paper's block in stock modules."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        hidden = size.hidden
        self.image = nn.Sequential(
            three_convolutions(size.widths), nn.Linear(features(size.widths[2]), hidden), nn.BatchNorm1d(hidden)
        )
        self.label = nn.Sequential(nn.Linear(CLASSES, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.label_change = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
        )
        self.fusion = nn.Sequential(
            nn.Linear(2 * hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.BatchNorm1d(hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, CLASSES),
        )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        h = self.label(z)
        return self.fusion(torch.cat([self.image(x), h + self.label_change(h)], dim=1))


def plain_gradients(blocks: nn.ModuleList, head: nn.Linear, x: Tensor, y: Tensor, eta: float = 0.1) -> float:
    """Equation (8) of the paper, term by term; returns the loss."""
    alpha_bar = cosine_schedule(len(blocks)).alpha_bar
    snr = [level / (1 - level) for level in alpha_bar]
    u = F.one_hot(y, CLASSES).to(head.weight.dtype)

    def noisy(t: int) -> Tensor:
        return math.sqrt(alpha_bar[t]) * u + math.sqrt(1 - alpha_bar[t]) * torch.randn_like(u)

    loss = F.cross_entropy(head(noisy(len(blocks))), y)
    loss.backward()
    total = loss.item()
    for t, block in enumerate(blocks, start=1):
        error = block(noisy(t - 1), x).softmax(dim=1) - u
        loss = 0.5 * eta * (snr[t] - snr[t - 1]) * error.square().sum(dim=1).mean()
        loss.backward()
        total += loss.item()
    return total


def plain_loop(size: Size, device: torch.device) -> Side:
    """The same step as anyone would write it."""
    blocks = nn.ModuleList(PlainBlock(size) for _ in range(size.blocks)).to(device)
    head = nn.Linear(CLASSES, CLASSES, device=device)
    module = nn.ModuleList([blocks, head])
    optimizer = AdamW(module.parameters(), **ADAMW)
    x, y = batch(size, device)

    def step() -> None:
        optimizer.zero_grad()
        plain_gradients(blocks, head, x, y)
        optimizer.step()

    return Side(step, module, [optimizer])


# ------------------------------------------------------------------------------------------------------------ measuring


def sides(size: Size, device: torch.device, peer: types.ModuleType | None) -> dict[str, Callable[[], Side]]:
    """What makes each side, by name."""
    makers: dict[str, Callable[[], Side]] = {}
    for precision in PRECISIONS:
        for name, make in (("noprop", noprop), ("two", noprop_two_convolutions), ("bp", backprop)):
            makers[f"{name} {precision}"] = lambda make=make, precision=precision: make(size, device, precision)
        for name, where, execution in (
            ("noprop batched", size, "batched"),
            ("noprop small", size.small, "loop"),
            ("noprop small batched", size.small, "batched"),
        ):
            makers[f"{name} {precision}"] = lambda where=where, precision=precision, execution=execution: noprop(
                where, device, precision, execution
            )
    makers[PLAIN_LOOP] = lambda: plain_loop(size, device)
    if peer is not None:
        makers[PEER_THREE] = lambda: peer_side(peer, size, device, convolutions=3)
        makers[PEER_TWO] = lambda: peer_side(peer, size, device, convolutions=2)
    return makers


def products(device: torch.device) -> tuple[dict[str, Callable[[], Tensor]], float]:
    """Square matrix products, the yardstick of what the machine can do, and their operations."""
    side = 8192 if device.type == "cuda" else 2048
    steps: dict[str, Callable[[], Tensor]] = {}
    for precision, dtype in zip(PRECISIONS, (torch.float32, torch.bfloat16), strict=True):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        steps[f"product {precision}"] = lambda a=a, b=b: a @ b
    return steps, 2.0 * side**3


def measure(
    size: Size, rounds: int, warmup: int, device: torch.device, peer: types.ModuleType | None
) -> tuple[list[Row], list[str]]:
    """Run all sides.

    Returns:
        The rows of the result file, and lines to be read.
    """
    torch.manual_seed(0)
    makers = sides(size, device, peer)
    costs = {}
    for name, make in makers.items():  # one at a time, so that the allocator's peak is its own
        side = make()
        costs[name] = cost(side, device, memory=name.startswith(("noprop", "bp")))
        del side
    for name in filter(lambda name: "batched" in name, costs):
        # The same operations as the loop's; torch counts those of a grouped convolution's backward several times.
        costs[name].flops = costs[name.replace(" batched", "")].flops
    yardsticks, product_flops = products(device)
    steps = {name: make().step for name, make in makers.items()}
    seconds = interleave({**steps, **yardsticks}, rounds, warmup, device)
    medians = {name: spread(values)[1] for name, values in seconds.items()}
    rates = {precision: product_flops / medians[f"product {precision}"] for precision in PRECISIONS}
    lines = [
        f"{'side':60} {'ms: lowest':>10} {'median':>9} {'highest':>9} {'images/s':>9} {'GFLOP':>7} {'GFLOP/s':>8} "
        f"{'floor ms':>8} {'of floor':>8}"
    ]
    for name, found in costs.items():
        low, median, high = (1e3 * value for value in spread(seconds[name]))
        floor = 1e3 * found.flops / rates["bf16" if name.endswith("bf16") else "float32"]
        lines.append(
            f"{name:60} {low:10.1f} {median:9.1f} {high:9.1f} {1e3 * size.batch / median:9.1f} "
            f"{found.flops / 1e9:7.1f} {found.flops / median / 1e6:8.1f} {floor:8.1f} {floor / median:8.0%}"
        )
    lines += [f"matrix product {precision}: {rate / 1e9:.0f} GFLOP/s" for precision, rate in rates.items()]
    return rows(size, medians, costs), lines


def rows(size: Size, medians: dict[str, float], costs: dict[str, Cost]) -> list[Row]:
    """Set ours beside each peer."""
    common = f"T={size.blocks}, batch {size.batch}"
    task = f"NoProp-DT step, MNIST shape, {common}"

    def speed(side: str) -> float | None:
        return size.batch / medians[side] if side in medians else None

    found = []
    for ours, peer, block in (
        ("noprop", PLAIN_LOOP, ""),
        ("noprop", PEER_THREE, ""),
        ("two", PEER_TWO, ", the peer's two convolutions"),
    ):
        for precision in reversed(PRECISIONS):
            mine, case = size.batch / medians[f"{ours} {precision}"], f"{task}{block}, ours {precision}, peer float32"
            found.append(compare(case, "images_per_second", mine, peer, speed(peer), less_is_better=False))
    batched, digits = f"{task}, batched blocks", f"NoProp-DT step, digits' shape, {common}, batched blocks"
    for where, mine_is, peer_is, name in (
        (task, "noprop", "bp", "back-propagation through the same blocks"),
        (batched, "noprop batched", "noprop", "our loop over the blocks"),
        (digits, "noprop small batched", "noprop small", "our loop over the blocks"),
    ):
        for precision in reversed(PRECISIONS):
            case, ours, peer = f"{where}, both {precision}", f"{mine_is} {precision}", f"{peer_is} {precision}"
            mine = size.batch / medians[ours]
            found.append(compare(case, "images_per_second", mine, name, speed(peer), less_is_better=False))
            for metric, value in costs[ours].bytes.items():
                found.append(compare(case, metric, value, name, costs[peer].bytes[metric], less_is_better=True))
    return found


def table(found: list[Row]) -> str:
    """Rows for reading; those whose peer was not measured are left out."""
    lines = [f"{'metric':30} {'ours':>12} {'peer':>12} {'ratio':>7}  case | peer"]
    for row in found:
        if row.peer_value is None or row.ratio is None:
            continue
        unit, places = (1e-6, 1) if row.metric.endswith("bytes") else (1, 1)
        name = row.metric.replace("bytes", "MB") if unit != 1 else row.metric
        lines.append(
            f"{name:30} {unit * row.ours:12.{places}f} {unit * row.peer_value:12.{places}f} {row.ratio:7.2f}  "
            f"{row.case} | {row.peer}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds that count (default 20)")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them (default 3)")
    parser.add_argument("--batch", type=int, help="images in a batch (default 128)")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--peer", type=Path, help=f"a checkout of {PEER}")
    parser.add_argument("--out", type=Path, default=OUT, help="the result file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.warmup < 0:
        parser.error("--rounds must be at least 1, --warmup at least 0")
    if options.threads:
        torch.set_num_threads(options.threads)
    size = size or Size(batch=options.batch or Size.batch)
    device = torch.device(options.device)
    peer = import_peer(options.peer.resolve()) if options.peer else None
    where = {**environment(device), "rounds": options.rounds, "warmup_rounds": options.warmup}
    found, lines = measure(size, options.rounds, options.warmup, device, peer)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    print("\n".join(lines), table(found), sep="\n\n")
    write_results(options.out, where, found)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()

"""Speed, memory and accuracy of quaternion layers beside real ones and beside three public libraries.

    python benchmarks/quaternion.py --orkis Pytorch-Quaternion-Neural-Networks --htorch hTorch --hypernets HyperNets

The layers map 1024 numbers to 1024, a batch of 256, forward and backward, with gradients of input, weight and bias, on
one thread, in float32 and under bf16 autocast over float32 weights. Beside ours stand `nn.Linear` of the same width,
which has four times the weights, and:

- github.com/Orkis-Research/Pytorch-Quaternion-Neural-Networks at commit 28caa7c, its layer with a backward pass of its
  own and its layer under autograd;
- github.com/ispamm/hTorch at commit 796a227;
- github.com/eleGAN23/HyperNets at commit c859ffe, its PHMLinear with the algebra set to that of quaternions.

      git clone https://github.com/Orkis-Research/Pytorch-Quaternion-Neural-Networks
      git -C Pytorch-Quaternion-Neural-Networks checkout 28caa7cde240e354fd7b87280450fd233cd494c3
      git clone https://github.com/ispamm/hTorch
      git -C hTorch checkout 796a22715bb60c73cd08502974f2257e01e27ca0
      git clone https://github.com/eleGAN23/HyperNets
      git -C HyperNets checkout c859ffe2319ae68ea06c386f2f0c8a2da266b3a6

Ours takes eight products or the real matrix's 16 as it does by default, by width and precision; rows beside "ours, 8
products" and "ours, 16 products" tell what the other would take.

Before anything is timed all sides have the same weights, and their outputs and input gradients must agree. A peer's
value is null without a checkout, and where its own backward pass cannot take bf16.

Operations. A layer of n = 1024 and a batch B does 2 B n² floating-point operations by the real matrix, three times that
with both gradients. Eight products of blocks do half of it. The price is six transforms by the 4x4 Hadamard matrix a
step, three of B n numbers, one of them back to outputs and one back to the input's gradient, and two of n² / 4, the
weight's and its gradient's: each reads and writes its numbers once.

Sides take turns, round by round, a few calls at a time; figures are medians. glibc is told to keep freed memory, on all
sides alike. Further rows: a convolution 3x3 of 128 channels, 16x16 places, batch 64, channels_last, beside `nn.Conv2d`;
bytes that autograd holds for the backward pass; and the error of eight products and of the real matrix, both in
float32, against float64.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _timing import Row, compare, environment, interleave, spread, write_results
from beyondprop.layers.quaternion import QuaternionConv2d, QuaternionLinear
from beyondprop.layers.quaternion.algebra import SIGNS, real_matrix
from beyondprop.measure import peak_saved_bytes
from beyondprop.training.runs import use_processor
from peers._common import check_commit

OUT = Path(__file__).resolve().parent / "results" / "quaternion.json"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
REAL = "nn.Linear"
ORKIS = "Orkis-Research/Pytorch-Quaternion-Neural-Networks@28caa7c"
PEERS = {
    "orkis": (f"{ORKIS}, custom backward", f"{ORKIS}, autograd"),
    "htorch": ("ispamm/hTorch@796a227",),
    "hypernets": ("eleGAN23/HyperNets@c859ffe, PHMLinear",),
}
COMMITS = {
    "orkis": "28caa7cde240e354fd7b87280450fd233cd494c3",
    "htorch": "796a22715bb60c73cd08502974f2257e01e27ca0",
    "hypernets": "c859ffe2319ae68ea06c386f2f0c8a2da266b3a6",
}
PRECISIONS = ("float32", "bf16")
BURST, CPU = 5, torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """What is measured."""

    width: int = 1024
    batch: int = 256
    channels: int = 128
    places: int = 16
    images: int = 64


def peers_of(options: argparse.Namespace, width: int) -> dict[str, Callable[[], nn.Module]]:
    """What makes each peer's layer, by name."""
    made: dict[str, Callable[[], nn.Module]] = {}
    for key, names in PEERS.items():
        if (checkout := getattr(options, key)) is None:
            continue
        check_commit(checkout, COMMITS[key])
        folder = checkout.resolve() / ("layers" if key == "hypernets" else ".")
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        if key == "orkis":
            from core_qnn.quaternion_layers import QuaternionLinear as Custom  # noqa: PLC0415
            from core_qnn.quaternion_layers import QuaternionLinearAutograd  # noqa: PLC0415

            made |= {names[0]: partial(Custom, width, width), names[1]: partial(QuaternionLinearAutograd, width, width)}
        elif key == "htorch":
            from htorch.layers import QLinear  # noqa: PLC0415

            made[names[0]] = partial(QLinear, width // 4, width // 4)
        else:
            from ph_layers import PHMLinear  # noqa: PLC0415

            made[names[0]] = partial(PHMLinear, 4, width, width, cuda=False)
    return made


def give_weights(layer: Any, ours: QuaternionLinear) -> None:
    """Set a peer's weights to ours."""
    with torch.no_grad():
        layer.bias.copy_(ours.bias)
        if hasattr(layer, "r_weight"):
            for name, block in zip("rijk", ours.weight, strict=True):
                getattr(layer, f"{name}_weight").copy_(block.T)
            return
        layer.s.copy_(ours.weight)
        for component in range(4):
            layer.a[component].zero_()
            for column in range(4):
                layer.a[component, component ^ column, column] = SIGNS[component][column]


def step(layer: nn.Module, x: Tensor, g: Tensor, precision: str) -> Tensor:
    """Forward and backward; the output."""
    layer.zero_grad()
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        y = layer(x)
    y.backward(g.to(y.dtype))
    return y.detach()


def check(layers: dict[str, nn.Module], ours: nn.Module, x: Tensor, g: Tensor) -> None:
    """Refuse layers that do not compute the same."""
    wanted = step(ours, x, g, "float32")
    gradient = x.grad.clone() if x.grad is not None else x
    for name, layer in layers.items():
        found = torch.Tensor(step(layer, x, g, "float32"))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(x.grad, gradient, rtol=1e-3, atol=1e-3)


def runs(call: Callable[[], object]) -> bool:
    """Whether a peer can do it at all."""
    try:
        call()
    except (RuntimeError, TypeError):
        return False
    return True


def burst(call: Callable[[], object]) -> Callable[[], object]:
    """Several calls, one after another."""

    def calls() -> None:
        for _ in range(BURST):
            call()

    return calls


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of a call, by name, of those that run."""
    able = {name: burst(call) for name, call in calls.items() if runs(call)}
    return {name: 1000 * spread(taken)[1] / BURST for name, taken in interleave(able, rounds, 2, CPU).items()}


def linear_rows(options: argparse.Namespace, size: Size) -> list[Row]:
    """Time the linear layers."""
    torch.manual_seed(0)
    ours, real = QuaternionLinear(size.width, size.width), nn.Linear(size.width, size.width)
    torch.nn.init.normal_(ours.bias)
    peers = {name: make() for name, make in peers_of(options, size.width).items()}
    for peer in peers.values():
        give_weights(peer, ours)
    x, g = torch.randn(size.batch, size.width, requires_grad=True), torch.randn(size.batch, size.width)
    check(peers, ours, x, g)
    saving = QuaternionLinear(size.width, size.width, products=8, memory_saving=True)
    eight, sixteen = (QuaternionLinear(size.width, size.width, products=products) for products in (8, 16))
    rows = []
    for precision in PRECISIONS:
        given = x.detach().to(torch.bfloat16 if precision == "bf16" else torch.float32).requires_grad_()
        sides = {"ours": ours, "ours, 8 products": eight, "ours, 16 products": sixteen, REAL: real, **peers}
        sides["ours, memory-saving"] = saving
        taken = timed(
            {name: partial(step, layer, given, g, precision) for name, layer in sides.items()}, options.rounds
        )
        case = f"linear {size.width} to {size.width}, batch {size.batch}, forward and backward, {precision}"
        others = [REAL, *(name for names in PEERS.values() for name in names)]
        others += ["ours, 8 products", "ours, 16 products", "ours, memory-saving"]
        rows += [
            compare(case, "milliseconds", taken["ours"], name, taken.get(name), less_is_better=True) for name in others
        ]
    held = {
        name: peak_saved_bytes(partial(step, layer, x, g, "float32"), layer)
        for name, layer in {"ours": ours, "ours, memory-saving": saving, REAL: real, **peers}.items()
    }
    for kind in ("ours", "ours, memory-saving"):
        case = f"linear {size.width} to {size.width}, batch {size.batch}{kind.removeprefix('ours')}, held for backward"
        for name in (REAL, *(name for names in PEERS.values() for name in names)):
            rows.append(compare(case, "bytes", held[kind], name, held.get(name), less_is_better=True))
    return rows


def conv_rows(options: argparse.Namespace, size: Size) -> list[Row]:
    """Time the convolutions."""
    torch.manual_seed(0)
    rows = []
    for precision in PRECISIONS:
        x = torch.randn(size.images, size.channels, size.places, size.places)
        x = x.to(torch.bfloat16 if precision == "bf16" else torch.float32, memory_format=torch.channels_last)
        g = torch.randn(x.shape).to(memory_format=torch.channels_last)
        real = nn.Conv2d(size.channels, size.channels, 3, padding=1).to(memory_format=torch.channels_last)
        sides: dict[str, nn.Module] = {"nn.Conv2d": real}
        for products in (8, 16):
            sides[f"{products} products"] = QuaternionConv2d(
                size.channels, size.channels, 3, padding=1, products=products
            )
        taken = timed(
            {name: partial(step, layer, x.requires_grad_(), g, precision) for name, layer in sides.items()},
            max(3, options.rounds // 4),
        )
        for products in (8, 16):
            case = f"conv 3x3, {size.channels} channels, {products} products, forward and backward, {precision}"
            ours = taken[f"{products} products"]
            rows.append(compare(case, "milliseconds", ours, "nn.Conv2d", taken["nn.Conv2d"], less_is_better=True))
    return rows


def error_rows(size: Size) -> list[Row]:
    """Compare the rounding errors."""
    torch.manual_seed(0)
    layer, x = QuaternionLinear(size.width, size.width, bias=False, products=8), torch.randn(size.batch, size.width)
    with torch.no_grad():
        exact = x.double() @ real_matrix(layer.weight.double()).T
        found = {}
        for products in (8, 16):
            layer.products = products
            found[products] = float((layer(x) - exact).norm() / exact.norm())
    case = f"linear {size.width} to {size.width}, output, float32"
    return [compare(case, "relative_error", found[8], "ours, 16 products", found[16], less_is_better=True)]


def main(arguments: list[str] | None = None, size: Size | None = None) -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key, names in PEERS.items():
        parser.add_argument(f"--{key}", type=Path, help=f"checkout of {names[0].partition(',')[0]}")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with use_processor(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        rows = [*linear_rows(options, size or Size()), *conv_rows(options, size or Size()), *error_rows(size or Size())]
        for row in rows:
            ratio = "" if row.ratio is None else f"{row.ratio:6.2f}x {row.peer}"
            print(f"{row.case:75} {row.metric:15} {row.ours:12.4g} {ratio}", flush=True)
        write_results(options.out, environment(CPU), rows)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    main()

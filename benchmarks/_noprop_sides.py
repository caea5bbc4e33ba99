"""Sides of a NoProp-DT training step: ours, back-propagation and a public peer; and what one step of a side costs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.flop_counter import FlopCounterMode

from _timing import synchronize
from beyondprop.layers.dropout import Dropout
from beyondprop.measure import peak_live_bytes, peak_saved_bytes
from beyondprop.networks.noprop import FlattenChannelsLast, ResidualChain, denoising_blocks
from beyondprop.rule import Rule
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock, NoPropDT
from beyondprop.rules.local.noprop.discrete import Execution
from beyondprop.rules.signals.backprop import Backprop

PEER_COMMIT = "e05bbb3"
PEER = f"eoghanf/NoPropLLM@{PEER_COMMIT}"
IMAGE, CLASSES = (1, 28, 28), 10
ADAMW = {"lr": 1e-3, "weight_decay": 1e-3}
DROPOUT = 0.2


@dataclass(frozen=True)
class Size:
    """Of the task; the defaults are the paper's."""

    blocks: int = 10
    batch: int = 128
    widths: tuple[int, int, int] = (32, 64, 128)
    hidden: int = 256
    image: tuple[int, int, int] = IMAGE

    @property
    def small(self) -> Size:
        """From the paper's size, that of the recipe `noprop-dt/digits`."""
        first, second, third = (width // 2 for width in self.widths)
        return replace(self, widths=(first, second, third), hidden=self.hidden // 4, image=(1, 8, 8))


@dataclass
class Side:
    """One side of the comparison, ready to take a step."""

    step: Callable[[], Any]
    module: nn.Module
    optimizers: list[Optimizer]


@dataclass
class Cost:
    """What one step of a side costs: bytes by name, and floating-point operations."""

    flops: int
    bytes: dict[str, int] = field(default_factory=dict)


def batch(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make random images and labels."""
    return torch.randn(size.batch, *size.image, device=device), torch.randint(CLASSES, (size.batch,), device=device)


def features(channels: int) -> int:
    """Numbers that two poolings leave of a sample."""
    return channels * (IMAGE[1] // 4) * (IMAGE[2] // 4)


def three_convolutions(widths: tuple[int, int, int]) -> nn.Sequential:
    """The paper's convolutions in stock modules."""
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(IMAGE[0], first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(DROPOUT),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Conv2d(second, third, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(DROPOUT),
        nn.Flatten(),
    )


def cost(side: Side, device: torch.device, *, memory: bool) -> Cost:
    """Count the operations of a first step, and the bytes of those after it."""
    with FlopCounterMode(display=False) as counter:
        side.step()
    found = Cost(counter.get_total_flops())
    if not memory:
        return found
    live = peak_live_bytes(side.step, side.module, *side.optimizers)
    found.bytes["peak_memory_bytes"] = live["total"]
    found.bytes["peak_activation_bytes"] = live["highest_activations"]
    found.bytes["peak_saved_for_backward_bytes"] = peak_saved_bytes(side.step, side.module)
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        side.step()
        found.bytes["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


# ----------------------------------------------------------------------------------------------------------------- ours


def library_side(rule: Rule, size: Size, device: torch.device, precision: str) -> Side:
    """Train a rule with every switch of ours on."""
    rule.to(device=device, memory_format=torch.channels_last)
    optimizer = AdamW(rule.parameters(), **ADAMW, fused=True)
    x, y = batch(size, device)
    x = x.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            rule.backward(x, y)
        optimizer.step()

    return Side(step, rule, [optimizer])


def noprop(size: Size, device: torch.device, precision: str, execution: Execution = "loop") -> Side:
    """NoProp-DT on the paper's blocks."""
    embedding, widths, hidden = ClassEmbedding.one_hot(CLASSES), size.widths, size.hidden
    blocks = denoising_blocks(size.blocks, size.image, embedding, widths=widths, hidden=hidden, dropout=DROPOUT)
    return library_side(NoPropDT(blocks, embedding, execution=execution), size, device, precision)


def noprop_two_convolutions(size: Size, device: torch.device, precision: str) -> Side:
    """NoProp-DT on blocks with the peer's two convolutions."""
    first, second, _ = size.widths

    def block() -> DenoisingBlock:
        encoder = nn.Sequential(
            nn.Conv2d(IMAGE[0], first, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            Dropout(DROPOUT),
            nn.Conv2d(first, second, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            Dropout(DROPOUT),
            FlattenChannelsLast(),
        )
        return DenoisingBlock(encoder, features(second), CLASSES, CLASSES, hidden=size.hidden)

    rule = NoPropDT((block() for _ in range(size.blocks)), ClassEmbedding.one_hot(CLASSES))
    return library_side(rule, size, device, precision)


def backprop(size: Size, device: torch.device, precision: str) -> Side:
    """Back-propagation through the same blocks in a row."""
    embedding = ClassEmbedding.one_hot(CLASSES)
    blocks = denoising_blocks(size.blocks, IMAGE, embedding, widths=size.widths, hidden=size.hidden, dropout=DROPOUT)
    return library_side(Backprop(ResidualChain(blocks, embedding)), size, device, precision)


# ----------------------------------------------------------------------------------------------------------------- peer


class OneBatch:
    """A loader of one batch, with what the peer's loop asks of a loader."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.dataset, self.batches = x, [(x, y)]

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return 1


class SilentLogger:
    """Takes the place of the peer's logger."""

    def __init__(self, **_: Any) -> None:
        pass

    def log_batch_metrics(self, **_: Any) -> None:
        """Do nothing."""


def import_peer(checkout: Path) -> types.ModuleType:
    """Import the peer's package `src` under a name of its own, its data sets and its logger stubbed."""
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if not head.stdout.startswith(PEER_COMMIT):
        raise SystemExit(f"{checkout} is not a checkout of {PEER}: its commit is {head.stdout.strip() or 'unknown'}")
    name = "noprop_llm"
    source = checkout / "src" / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=[str(source.parent)])
    if spec is None or spec.loader is None:
        raise SystemExit(f"{source} cannot be imported")
    stub = types.ModuleType("torchvision")
    stub.datasets = stub.transforms = None  # type: ignore[attr-defined]
    peer = sys.modules[name] = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # it tracks its bytecode in git
    sys.modules["torchvision"] = stub
    try:
        spec.loader.exec_module(peer)
    finally:
        del sys.modules["torchvision"]
        sys.dont_write_bytecode = writes
    peer.trainer.TrainingLogger = SilentLogger
    return peer


def peer_side(peer: types.ModuleType, size: Size, device: torch.device, *, convolutions: int) -> Side:
    """The peer's training of one batch, by its own trainer."""
    config = peer.NoPropConfig(dataset="mnist", batch_size=size.batch, num_layers=size.blocks, timesteps=size.blocks)
    trainer = peer.NoPropTrainer(config)
    trainer.device = device  # it would take CUDA wherever there is one
    if convolutions == 3:
        for module in trainer.model.denoising_modules:
            linear, norm = module.image_conv[-2:]
            wider = nn.Linear(features(size.widths[2]), linear.out_features)
            module.image_conv = nn.Sequential(three_convolutions(size.widths), wider, norm)
    trainer.model.to(device)
    trainer.optimizers = trainer._create_diffusion_optimizers()
    trainer._compute_epoch_loss_stats = lambda: None
    loader = OneBatch(*batch(size, device))

    def step() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train_epoch(loader, None, 1)

    return Side(step, trainer.model, list(trainer.optimizers.values()))

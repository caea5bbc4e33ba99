"""The library's side of `noprop_timed.py`, with every switch of ours on: channels_last, fused Adam, float32 or bf16.

Its tasks: `"train"`; `"train twice"`, an optimizer step upon two whole passes through encoder and block, which is what
a step of the peers holds; and predictions, `"multistep 20"` as the library's default, `"euler 1000"` as the paper's
(even in time, from noise).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, get_args

import torch
from _common import CLASSES, DROPOUT, HIDDEN, LEARNING, parser, serve
from torch.optim import Adam

from beyondprop.networks.noprop import WIDTHS, paper_encoder, timed_network
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropCT
from beyondprop.rules.local.noprop.continuous import Method
from beyondprop.training.evaluation import PRECISIONS, autocast

CPU = torch.device("cpu")
AS_IN_THE_PAPER = {"method": "euler", "grid": "uniform", "start": "noise"}


class Ours:
    """NoProp-CT on the paper's block."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        embedding = ClassEmbedding.one_hot(CLASSES)
        convolutions, features = paper_encoder(options.image, options.widths, DROPOUT)
        encoder, block = timed_network(convolutions, features, embedding, hidden=options.hidden)
        self.rule = NoPropCT(encoder, block, embedding).to(memory_format=torch.channels_last)
        self.optimizer = Adam(self.rule.parameter_groups(), **LEARNING, fused=True)
        x = torch.randn(options.batch, *options.image)
        self.x, self.y = x.to(memory_format=torch.channels_last), torch.randint(CLASSES, (options.batch,))
        self.precision = options.precision
        counted = [*encoder.parameters(), *block.parameters()]
        self.facts: dict[str, Any] = {"block_parameters": sum(p.numel() for p in counted)}

    def task(self, name: str) -> Callable[[], object]:
        """See `_common.Side`."""
        if name in ("train", "train twice"):
            return lambda: self.train_step(passes=2 if name == "train twice" else 1)
        method, steps = name.split()
        if method not in get_args(Method):
            raise SystemExit(f"there is no method {method!r}")
        return lambda: self.predict(int(steps), **(AS_IN_THE_PAPER if method == "euler" else {"method": method}))

    def train_step(self, passes: int) -> None:
        """Take one optimizer step upon the gradients of one or more passes over the batch."""
        self.rule.train()
        self.optimizer.zero_grad()
        for _ in range(passes):
            with autocast(CPU, self.precision):
                self.rule.backward(self.x, self.y)
        self.optimizer.step()

    def predict(self, steps: int, **inference: Any) -> None:
        """Predict the batch as the library's evaluation does."""
        self.rule.eval()
        with torch.inference_mode(), autocast(CPU, self.precision):
            self.rule(self.x, steps=steps, **inference)


def main() -> None:
    """Serve."""
    command = parser(__doc__)
    command.add_argument("--precision", choices=PRECISIONS, default="float32")
    command.add_argument("--widths", type=int, nargs=3, default=WIDTHS, help="of the convolutions")
    command.add_argument("--hidden", type=int, default=HIDDEN, help="of the linear layers")
    options = command.parse_args()
    serve(lambda: Ours(options))


if __name__ == "__main__":
    main()

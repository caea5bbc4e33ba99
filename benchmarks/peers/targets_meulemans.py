"""The side of github.com/meulemansalex/theoretical_framework_for_target_propagation in `targets_step.py`.

Nothing in its files is changed. Its networks are those of its `lib.builders.build_network`; a step is what the loops of
its `lib.train` do with one batch: the forward pass, `train_forward_parameters`, `train_feedback_parameters`, and both
Adam optimizers of its `lib.utils.choose_optimizer`. Left out are its records of losses and its evaluation. Stubbed are
tensorboardX and pandas, in which it keeps what is not asked for here.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers._common import check_commit

COMMIT = "b6ee350c238be645e9cb42e12c79606f28f20f11"
PEER = f"meulemansalex/theoretical_framework_for_target_propagation@{COMMIT[:7]}"
TYPES = {
    "bp": "BP",
    "dtp": "DTP",
    "dtpdr": "DTPDR",
    "ddtp linear": "DMLPDTP2",
    "ddtp rhl": "DKDTP2",
    "ddtp control": "DDTPControl",
}


def import_peer(checkout: Path) -> types.SimpleNamespace:
    """Import its library with stubs for what is not measured."""
    check_commit(checkout, COMMIT)
    stubs = {name: types.ModuleType(name) for name in ("tensorboardX", "pandas")}
    stubs["tensorboardX"].SummaryWriter = object  # type: ignore[attr-defined]
    present = {name: sys.modules[name] for name in stubs if name in sys.modules}
    sys.path.insert(0, str(checkout))
    sys.dont_write_bytecode = True
    sys.modules.update(stubs)
    try:
        return types.SimpleNamespace(**{name: importlib.import_module(f"lib.{name}") for name in ("builders", "train")})
    finally:
        sys.path.remove(str(checkout))
        for name in stubs:
            del sys.modules[name]
        sys.modules.update(present)


class Theirs:
    """One of its networks with its optimizers.

    Args:
        peer: What `import_peer` gives.
        method: One of `TYPES`.
        widths: Of the input, the hidden layers and the output.
        batch: Inputs, in the precision of all numbers, and labels.
        settings: eta, sigma and the length of the random hidden layer.
        fused: Whether its optimizers get torch's fused form, put on from outside.
    """

    def __init__(
        self,
        peer: Any,
        method: str,
        widths: list[int],
        batch: tuple[Tensor, Tensor],
        settings: Any,
        *,
        fused: bool,
    ) -> None:
        linear = method in ("ddtp linear", "ddtp control")
        self.options = argparse.Namespace(
            hidden_layers=None,
            size_hidden=widths[1:-1],
            size_input=widths[0],
            size_output=widths[-1],
            network_type=TYPES[method],
            classification=True,
            output_activation="softmax",
            hidden_activation="tanh",
            fb_activation="linear" if linear else "tanh",
            hidden_fb_activation="linear" if linear else "tanh",
            size_mlp_fb=None,
            size_hidden_fb=settings.hidden,
            recurrent_input=False,
            no_bias=False,
            sigma=settings.noise,
            initialization="xavier_normal",
            plots=None,
            target_stepsize=settings.target_step,
            norm_ratio=1.0,
            train_randomized=False,
            train_randomized_fb=False,
            diff_rec_loss=method == "dtpdr",
            direct_fb=method.startswith("ddtp"),
            freeze_BPlayers=False,
            freeze_output_layer=False,
            shallow_training=False,
            only_train_first_layer=False,
            only_train_last_two_layers=False,
            only_train_last_three_layers=False,
            only_train_last_four_layers=False,
            **dict.fromkeys(("save_BP_angle", "save_GN_angle", "save_GNT_angle", "save_nullspace_norm_ratio"), False),
            **dict.fromkeys(("save_GN_activations_angle", "save_BP_activations_angle"), False),
            **dict.fromkeys(("output_space_plot_bp", "gn_damping_hpsearch"), False),
        )
        self.peer, self.method = peer, method
        self.x, self.y = batch
        self.network = peer.builders.build_network(self.options).to(self.x.dtype)
        rates = {"lr": settings.rate, "fused": fused}
        self.forward_optimizer = torch.optim.Adam(self.forward_parameters(), **rates)
        self.feedback_optimizer = None
        if method != "bp":
            self.feedback_optimizer = torch.optim.Adam(self.network.get_feedback_parameter_list(), **rates)

    def forward_parameters(self) -> list[Tensor]:
        """Of the network."""
        return list(self.network.parameters() if self.method == "bp" else self.network.get_forward_parameter_list())

    def gradients(self) -> None:
        """Compute both gradients of a batch, as it does before both optimizers step."""
        predictions = self.network.forward(self.x)
        if self.feedback_optimizer is None:
            self.forward_optimizer.zero_grad()
            F.cross_entropy(predictions, self.y).backward()
            return
        train, loss = self.peer.train, nn.CrossEntropyLoss()
        train.train_forward_parameters(self.options, self.network, predictions, self.y, loss, self.forward_optimizer)
        train.train_feedback_parameters(self.options, self.network, self.feedback_optimizer)

    def step(self) -> None:
        """Take a step."""
        self.gradients()
        self.forward_optimizer.step()

    def feedback(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the feedback to a hidden layer, counted from 0."""
        if self.method in ("dtp", "dtpdr"):
            layer = self.network.layers[index + 1]
            return layer._feedbackweights, layer._feedbackbias
        layer = self.network.layers[index]
        if self.method == "ddtp rhl":
            return layer._feedbackweights, layer._feedbackbias
        return layer._fb_mlp.layers[0].weight, layer._fb_mlp.layers[0].bias


@contextmanager
def known_noise(function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it `torch.randn_like` is another function."""
    drawn = torch.randn_like
    torch.randn_like = function  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn_like = drawn

"""Cascaded Forward whose blocks learn too: by direct feedback of the last one's error."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError
from beyondprop.rule import check_labels, descend, is_finite
from beyondprop.rules.local.blockwise import finished
from beyondprop.rules.local.cascaded_forward import CascadedForward


class CascadedForwardDFA(CascadedForward):
    r"""Cascaded Forward with blocks trained by direct feedback, CaFo-DFA (Zhao et al., arXiv 2303.09728, version 3).

    First the blocks learn, then, with the blocks frozen in evaluation mode, the predictors do as in `CascadedForward`.
    A linear layer on the last block's output makes the error e = softmax - onehot, and trains that block by its true
    gradient; every other block has

        dL/dh_k = e B_k / N,

    differentiated inside the block alone, for a batch of N. The rows of B_k are drawn from a normal distribution,
    scaled to length 1, and fixed.

    The authors' code of this variant is not public; the above follows the description in arXiv 2511.01061.

    The graphs of all blocks stand until the error is known: unlike that of the other rules of blocks, the memory for
    differentiation grows with depth.

    Args: as `CascadedForward`; the network's parameters are trained.

    Raises:
        UnsupportedNetworkError: All of the network is frozen; and as `CascadedForward`.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    >>> rule = CascadedForwardDFA(network, torch.zeros(2, 4), 3)
    >>> rule.stages
    ('blocks', 'predictors')
    """

    stages = ("blocks", "predictors")
    follows_gradient: ClassVar[bool] = False

    def __init__(self, network: nn.Module, example: Tensor, classes: int, **options: Any) -> None:
        if not any(p.requires_grad for p in network.parameters()):
            raise UnsupportedNetworkError(
                "every parameter of the network is frozen, as CascadedForward leaves it: network.requires_grad_(True)"
            )
        super().__init__(network, example, classes, **options)
        like = next(network.parameters())
        sizes = [shape.numel() for shape in self.shapes]
        self.auxiliary = nn.Linear(sizes[-1], classes).to(device=like.device, dtype=like.dtype)
        for k, size in enumerate(sizes[:-1]):
            rows = torch.randn(classes, size, dtype=like.dtype, device=like.device)
            self.register_buffer(f"feedback_{k}", F.normalize(rows, dim=1))

    def freeze(self) -> None:
        """Nothing is frozen: blocks learn."""

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Train the blocks, or the predictors, as the stage says."""
        if self.stage == "predictors":
            with finished(self.network):
                return self.train_predictors(x, y, phase)
        y = check_labels(y, self.classes)
        outputs = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x.detach())
            if not is_finite(x):
                raise NonFiniteError(
                    f"the output of block {number} holds NaN or infinity: check the data, or lower the learning rate"
                )
            outputs.append(x)
        scores = self.auxiliary(x.flatten(1))
        loss = F.cross_entropy(scores, y)
        descend(loss, f"block {len(outputs)}, by its auxiliary classifier")
        with torch.no_grad():
            error = (scores.to(loss.dtype).softmax(dim=1) - F.one_hot(y, self.classes)) / len(y)
        for k, h in enumerate(outputs[:-1]):
            if h.requires_grad:
                feedback: Tensor = getattr(self, f"feedback_{k}")
                signal = (error.to(feedback.dtype) @ feedback).view(h.shape)
                h.backward(torch.empty_like(h).copy_(signal))  # in h's own order of memory
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network with its auxiliary classifier, and the predictors."""
        blocks = [p for part in (self.network, self.auxiliary) for p in part.parameters() if p.requires_grad]
        return [{"name": "network", "params": blocks}, *super().parameter_groups()]

"""SymBa: Forward-Forward with a symmetric loss over pairs."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.rules.local.forward_forward import ForwardForward

PairLoss = Literal["softplus", "swish"]


class SymBa(ForwardForward):
    r"""SymBa (Lee and Song, arXiv 2303.08418): the gradients of both passes are equal and opposite.

        l_k = log(1 + exp(-α (G_k⁺ - G_k⁻))),   dl/dG⁺ = -α σ(-α (G⁺ - G⁻)) = -dl/dG⁻

    where G is the mean of squares, and + and - are passes of one and the same sample with its true class and with a
    wrong one. There is no threshold. The paper also gives the network an intrinsic class pattern, whose construction is
    not public: `label=ClassPattern(...)` is our reading of it.

    Args:
        network, example, classes, label, blocks, normalise, negatives, peer, readout, order: As `ForwardForward`.
        goodness: As there; the `"mean"` by default. With the `"sum"`, α wants to be divided by the width.
        skip_first: As there; by default every block counts.
        alpha: α, positive.
        pair_loss: `"softplus"` as above, or `"swish"`: -α (G⁺ - G⁻) σ(-α (G⁺ - G⁻)), whose pull turns round,
            slightly, at pairs that are well on the right side.

    Raises:
        UserError: `alpha` or `pair_loss` is out of range; and as `ForwardForward`.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    >>> rule = SymBa(network, torch.zeros(2, 6), classes=3)
    >>> rule.backward(torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        alpha: float = 4.0,
        pair_loss: PairLoss = "softplus",
        **options: Any,
    ) -> None:
        if not alpha > 0:
            raise UserError(f"alpha must be positive, got {alpha}")
        if pair_loss not in ("softplus", "swish"):
            raise UserError(f"pair_loss must be 'softplus' or 'swish', got {pair_loss!r}")
        self.alpha, self.shape_of_loss = alpha, pair_loss
        if "threshold" in options:
            raise UserError("SymBa has no threshold: it compares a pair")
        super().__init__(network, example, classes, **{"goodness": "mean", "skip_first": False, **options})

    def pair_loss(self, positive: Tensor, negative: Tensor, threshold: float) -> Tensor:  # noqa: D102
        del threshold
        wrong = self.alpha * (negative - positive)
        return (F.softplus(wrong) if self.shape_of_loss == "softplus" else F.silu(wrong)).mean()

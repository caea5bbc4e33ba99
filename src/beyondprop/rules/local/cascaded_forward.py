"""Cascaded Forward: every block has a linear predictor of its own, and their opinions are added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.local.blockwise import HiddenLayers, finished, output_shapes, outputs_in_turn
from beyondprop.rules.local.linear_predictor import LinearPredictor, PredictorLoss


class CascadedForward(HiddenLayers):
    r"""Cascaded Forward with random blocks, CaFo-Rand (Zhao et al., arXiv 2303.09728, Section 3).

        h_k = block_k(h_{k-1}),    P_k = softmax(h_k W_kᵀ),    prediction: Σ_k P_k

    The blocks stay as they are; each predictor W_k learns alone, from its block's output (`LinearPredictor`). With the
    sparsemax loss, P_k is sparsemax. In training mode, batch norms use the batch's statistics and note them; for
    predictions the blocks are in evaluation mode, whatever the rule's: they never use the test batch's own.

    Args:
        network: An `nn.Sequential` of hidden blocks, such as conv - ReLU - pool - batch norm. Its parameters are
            frozen: `requires_grad` is off from now on. It has no output layer.
        example: One input batch, run once without a trace, to see the shapes of the blocks' outputs.
        classes: Number of classes.
        loss: Of the predictors: `"cross-entropy"`, `"sparsemax"` or `"squared"`; for the least squares in closed form
            see `beyondprop.solvers.cascaded_forward`.
        bias: Whether predictors have one; the paper has none.
        blocks: As `Blockwise`.

    Raises:
        UnsupportedNetworkError: The network is no `nn.Sequential`, blocks share a parameter, or a batch norm keeps no
            statistics.
        UserError: An option is unknown; in `backward`, a label is no class index.
        NonFiniteError: In `backward`, when a predictor's loss is NaN or infinite; the message names the block.

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.ReLU())
    >>> rule = CascadedForward(network, torch.zeros(2, 1, 8, 8), classes=3)
    >>> rule.backward(torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    >>> [p.linear.in_features for p in rule.predictors]
    [144, 128]
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        classes: int,
        *,
        loss: PredictorLoss = "cross-entropy",
        bias: bool = False,
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__(network, blocks)
        if classes < 1:
            raise UserError(f"classes must be at least 1, got {classes}")
        self.classes = classes
        like = next(network.parameters())
        self.shapes = output_shapes(self.blocks, network, example)
        made = [LinearPredictor(shape.numel(), classes, loss=loss, bias=bias) for shape in self.shapes]
        self.predictors = nn.ModuleList(made).to(device=like.device, dtype=like.dtype)
        self.freeze()

    @classmethod
    def supports(cls, network: nn.Module) -> str | None:
        """A sequence whose batch norms keep statistics."""
        if reason := super().supports(network):
            return reason
        for name, module in network.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                return (
                    f"layer {name} normalises by the batch that is to be predicted, for it keeps no statistics: make "
                    "it with track_running_stats=True"
                )
        return None

    def freeze(self) -> None:
        """Switch the blocks' gradients off."""
        self.network.requires_grad_(False)

    def assign_credit(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Let every predictor learn from its block's output."""
        return self.train_predictors(x, y, phase)

    def train_predictors(self, x: Tensor, y: Tensor, phase: str | None) -> Tensor:
        """Add the predictors' gradients to their `.grad`, and return the sum of their losses."""
        total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        for number, (predictor, output) in enumerate(self._with_outputs(x), start=1):
            try:
                total = total + predictor.backward(output, y, phase)
            except NonFiniteError as error:
                raise NonFiniteError(str(error).replace("the predictor", f"block {number}'s predictor")) from None
        return total

    def features(self, x: Tensor) -> list[Tensor]:
        """Return what the blocks give for x, each of shape (batch, ...), without a graph."""
        return [output.clone() for output in outputs_in_turn(self.blocks, x)]

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: Input batch.

        Returns:
            Logarithms of the mean of the predictors' probabilities, shape (batch, classes).
        """
        with finished(self.network):
            said = [predictor.probabilities(predictor(output)) for predictor, output in self._with_outputs(x)]
        return torch.stack(said).mean(dim=0).clamp(min=1e-30).log()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns: the predictors."""
        return [{"name": "predictors", "params": [p for p in self.predictors.parameters() if p.requires_grad]}]

    def _with_outputs(self, x: Tensor) -> Iterator[tuple[LinearPredictor, Tensor]]:
        for predictor, output in zip(self.predictors, outputs_in_turn(self.blocks, x), strict=True):
            yield cast(LinearPredictor, predictor), output

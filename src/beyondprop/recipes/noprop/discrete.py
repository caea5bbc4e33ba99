"""NoProp, discrete time (arXiv 2503.24322): the paper's image experiments and a small one on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Recipe
from beyondprop.recipes.noprop.blocks import BlockSettings, block_choices, make_blocks, make_embedding, published

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits
    from beyondprop.rules.local.noprop import NoPropDT


@dataclass(frozen=True, kw_only=True)
class NoPropDTSettings(BlockSettings):
    """Settings of NoProp in discrete time."""

    eta: float = 0.1
    """Weight of the denoising term."""
    error: Literal["squared", "cross-entropy"] = "squared"
    """Of what a block says: the paper's squared distance, or cross-entropy."""
    highest: float = 0.995
    """Where the cosine schedule is clipped at its clean end (the paper gives no formula)."""
    head: Literal["softmax", "posterior"] = "softmax"
    """How z_T gives class probabilities: eq. (14), or (15)-(16)."""
    order: Literal["all-blocks", "one-by-one"] = "all-blocks"
    """Train all blocks on every batch, or one block in every pass over the data (Algorithm 1)."""
    execution: Literal["loop", "batched", "compiled"] = "loop"
    """How a step runs the blocks: one after another, all at once, or all at once under torch.compile."""
    noise: bool = False
    """At inference: add noise in every update, as the paper does."""
    start: Literal["zero", "noise"] = "zero"
    """At inference: z_0 is its mean, or drawn as in the paper."""
    readout: Literal["head", "last-block", "mean"] = "head"
    """At inference: read the class from z_T, the last block, or the mean over the chain's blocks."""


def build(settings: NoPropDTSettings, splits: Splits) -> Experiment:
    """Build NoProp-DT on a data set."""
    from beyondprop.rules.local.noprop import NoPropDT, cosine_schedule

    embedding = make_embedding(settings, splits.train)
    rule = NoPropDT(
        make_blocks(settings, splits.train, embedding),
        embedding,
        schedule=cosine_schedule(settings.steps, highest=settings.highest),
        eta=settings.eta,
        head=settings.head,
        error=settings.error,
        order=settings.order,
        execution=settings.execution,
    )
    inference = {"noise": settings.noise, "start": settings.start, "readout": settings.readout}
    return Experiment(rule, inference, measures=lambda batches: inference_measures(rule, batches))


def inference_measures(rule: NoPropDT, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Measure what the chain adds: every block alone (given z_0), and the chain by each way of reading it.

    Returns:
        `block_test_accuracy`, a list of T accuracies, and `test_accuracy_WAY` for each way to predict; all in 0..1.
    """
    import torch

    ways = ("as_in_paper", "chain", "last_block", "mean_of_chain", "blocks_alone_pooled")
    correct = dict.fromkeys(ways, 0)
    alone = torch.zeros(len(rule.network), dtype=torch.float64)
    count = 0
    for x, y in batches:
        by_itself = rule.each_block_alone(x)
        on_the_way = rule.run_chain(x)[1]
        scores = {
            "as_in_paper": rule(x, noise=True, start="noise"),
            "chain": rule(x),
            "last_block": on_the_way[-1],
            "mean_of_chain": on_the_way.logsumexp(dim=0),
            "blocks_alone_pooled": by_itself.logsumexp(dim=0),
        }
        for way in ways:
            correct[way] += int((scores[way].argmax(dim=1) == y).sum())
        alone += (by_itself.argmax(dim=2) == y).sum(dim=1).cpu()
        count += len(y)
    figures: dict[str, Any] = {f"test_accuracy_{way}": hits / count for way, hits in correct.items()}
    return figures | {"block_test_accuracy": (alone / count).tolist()}


def choices(settings: NoPropDTSettings) -> tuple[str, ...]:
    """Name what is settled for NoProp where the paper is silent, and how it differs from Algorithm 1 and eq. (3)."""
    return (
        *block_choices(settings),
        f"cosine schedule clipped at {settings.highest}",
        *(("every batch trains all blocks, the sum over t exact",) if settings.order == "all-blocks" else ()),
        *(("posterior head with sigma 0.5",) if settings.head == "posterior" else ()),
        *(() if settings.noise else ("prediction without noise",)),
    )


def larger_choices(settings: NoPropDTSettings) -> tuple[str, ...]:
    """As `choices`, and by what the recipes of the larger class predict: the paper reads the head."""
    return (*choices(settings), f"class read from {settings.readout}")


INFERENCE = ("noise", "start", "readout")
VARIANTS = ("embedding", "head", "noise", "start", "order")


# The larger class, which is not the paper's: what few epochs on a CPU allow.
LARGE = NoPropDTSettings(
    epochs=12,
    steps=3,
    encoder="residual",
    batch_size=256,
    learning_rate=3e-3,
    weight_decay=0.05,
    lr_schedule="one-cycle",
    augment="crop-flip",
    ema=0.995,
    error="cross-entropy",
    readout="mean",
)

RECIPES = (
    Recipe(
        "noprop-dt/digits",
        "10 small blocks on scikit-learn's 8x8 digits: a minute or two, nothing to download",
        "digits",
        NoPropDTSettings(
            epochs=30, first_width=16, hidden=64, learning_rate=3e-3, lr_schedule="one-cycle", dropout=0.1
        ),
        build,
        inference=INFERENCE,
    ),
    Recipe(
        "noprop-dt/mnist",
        "the paper's MNIST experiment",
        "mnist",
        NoPropDTSettings(epochs=100),
        build,
        published({"one-hot": 0.9947, "learned": 0.9949, "prototype": 0.9954}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-dt/cifar-10",
        "the paper's CIFAR-10 experiment",
        "cifar-10",
        NoPropDTSettings(epochs=150),
        build,
        published({"one-hot": 0.7925, "learned": 0.7912, "prototype": 0.8054}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-dt/cifar-100",
        "the paper's CIFAR-100 experiment",
        "cifar-100",
        NoPropDTSettings(epochs=150),
        build,
        published({"one-hot": 0.4593, "learned": 0.4519, "prototype": 0.4606}),
        choices,
        VARIANTS,
        INFERENCE,
    ),
    Recipe(
        "noprop-dt/cifar-10-large",
        "larger class: 3 blocks with residual encoders, augmentation, averaged weights; CIFAR-10",
        "cifar-10",
        LARGE,
        build,
        choices=larger_choices,
        inference=INFERENCE,
    ),
    Recipe(
        "noprop-dt/cifar-100-large",
        "larger class: 3 blocks with residual encoders, augmentation, averaged weights; CIFAR-100",
        "cifar-100",
        replace(LARGE, epochs=16),
        build,
        choices=larger_choices,
        inference=INFERENCE,
    ),
)

"""ResCNet, and PCANet as its baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Published, Recipe, SolverSettings

if TYPE_CHECKING:
    from torch import Tensor

    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class ResCNetSettings(SolverSettings):
    """Settings of ResCNet; what each one means is told at the class."""

    batch_size: int = 1000
    layers: int = 100
    """Layers that are fitted; images held out choose how many of them predict."""
    filters: int = 256
    """Of a layer."""
    patch: int = 3
    """Side of a patch, in pixels of the maps."""
    unshuffle: int = 2
    """So many pixels in a row and a column become channels."""
    carry: int = 8
    """Maps that the next layer sees beside the image."""
    basis: Literal["prototypes", "components"] = "prototypes"
    """Whitened patches as filters, or the principal components themselves."""
    features: Literal["first", "second", "histogram"] = "first"
    """Pooled means of rectified maps, of their products, or PCANet's hashed histograms."""
    grid: int = 2
    """Regions along each side that features are pooled over."""
    offset: float = 0.5
    """Of the rectification, in deviations of a response."""
    floor: float = 0.03
    """Of whitening, in units of the mean variance."""
    contrast: float = 0.1
    """Added to a patch's variance when it is normalised."""
    feature_floor: float = 0.0
    """Added to features' variances, in units of their mean, before they are divided by their deviation."""
    ridge: float = 0.5
    """Of the classifiers; 1 is as strong as the standardised features."""
    rate: float = 1.0
    """The largest share of a layer's prediction that counts."""
    leave_one_out: bool = False
    """Whether residual labels are left-one-out."""
    line_search: bool = False
    """Whether the share of each layer is the best for what is left over, or `rate`."""
    mirror: bool = False
    """Whether features are means over the image and its mirror image."""
    held_out: float = 0.04
    """Share of the training images that chooses the depth."""
    narrow: Literal["auto", "yes", "no"] = "auto"
    """Whether maps, features and products are in bfloat16; auto: where the processor multiplies it fast."""
    place: Literal["memory", "disk"] = "memory"
    """Where images, maps and features are kept during the fit."""


@dataclass(frozen=True, kw_only=True)
class PCANetSettings(SolverSettings):
    """Settings of PCANet; what each one means is told at the class."""

    first: int = 8
    """Filters of the first stage."""
    patch: int = 7
    """Side of a patch."""
    block: int = 7
    """Side of a histogram's block."""
    stride: int = 3
    """From one block to the next."""
    grids: tuple[int, ...] = ()
    """Grids of a pyramid in place of blocks."""
    passes: int = 8
    """Of the classifier over the data."""
    rate: float = 3e-3
    """Of the classifier's first steps."""
    decay: float = 1e-5
    """Of the classifier's weights."""


def build(settings: ResCNetSettings, splits: Splits) -> Experiment:
    """Make the solver."""
    from beyondprop.solvers.rescnet.network import ResCNet
    from beyondprop.training.evaluation import multiplies_bfloat16

    narrow = multiplies_bfloat16() if settings.narrow == "auto" else settings.narrow == "yes"
    options = _own(settings) | {"narrow": narrow}
    network = ResCNet(tuple(splits.train.images.shape[1:]), splits.train.classes, **options)  # type: ignore[arg-type]

    measured: dict[str, Any] = {}  # the picture is of what was measured: a hundred layers are run over the split once

    def measures(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        import torch

        parts = [(network.right_by_depth(x, y), len(x)) for x, y in batches]
        shares = torch.stack([right for right, _ in parts]).sum(dim=0) / sum(count for _, count in parts)
        course = network.course.double().T.tolist()
        measured.update(
            depth=float(network.depth),
            accuracy_by_depth=shares.tolist(),
            share_by_depth=course[0],
            residual_by_depth=course[1],
        )
        if settings.held_out:
            measured["held_out_by_depth"] = course[2]
        return dict(measured)

    def files(batches: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, bytes]:
        from beyondprop.training.depth_curve import draw_by_depth

        return {"depth.png": draw_by_depth(measured or measures(batches), f"ResCNet on {splits.train.name}")}

    return Experiment(network, measures=measures, files=files)


def build_pcanet(settings: PCANetSettings, splits: Splits) -> Experiment:
    """Make the baseline."""
    from beyondprop.solvers.rescnet.pcanet import PCANet

    return Experiment(PCANet(tuple(splits.train.images.shape[1:]), splits.train.classes, **_own(settings)))  # type: ignore[arg-type]


def _own(settings: SolverSettings) -> dict[str, Any]:
    """Settings that are the solver's own."""
    common = {field.name for field in fields(SolverSettings)}
    return {name: value for name, value in asdict(settings).items() if name not in common}


UNREAD = "all but the idea: the paper's text could not be read beyond its abstract"
HELD_OUT = "a share of the training images is held out to choose the depth"
CIFAR = ResCNetSettings(mirror=True, grid=3)
SMALL = ResCNetSettings(
    layers=12,
    filters=32,
    unshuffle=1,
    carry=8,
    ridge=0.1,
    leave_one_out=True,
    line_search=True,
    held_out=0.1,
    narrow="no",
    batch_size=500,
)


def recipe(variant: str, summary: str, settings: ResCNetSettings, published: tuple[float, str] | None = None) -> Recipe:
    """Make a recipe of ResCNet."""
    figures = None if published is None else Published({"test_accuracy": published[0]}, published[1])
    return Recipe(
        f"rescnet/{variant}",
        summary,
        variant,
        settings,
        build,
        lambda _settings: figures,
        choices,
    )


def choices(settings: ResCNetSettings) -> tuple[str, ...]:
    """What is ours."""
    ours = {
        "filters are patches in the whitened space of principal components": settings.basis == "prototypes",
        "features are of first order": settings.features == "first",
        "residual labels are those of the fit, not left-one-out": not settings.leave_one_out,
    }
    return (UNREAD, HELD_OUT, *(text for text, is_so in ours.items() if is_so))


RESCNET = (
    recipe("digits", "12 layers on scikit-learn's digits", SMALL),
    recipe(
        "mnist",
        "40 layers on MNIST",
        replace(
            CIFAR,
            layers=40,
            mirror=False,
            unshuffle=1,
            patch=9,
            grid=7,
            filters=32,
            carry=4,
            floor=1.0,
            contrast=1.0,
            feature_floor=1.0,
            ridge=0.03,
        ),
        (0.9938, "best of the PCANet family (LDANet-2), arXiv 1404.3606, as quoted"),
    ),
    recipe(
        "cifar-10",
        "100 layers on CIFAR-10",
        CIFAR,
        (0.7867, "best of the PCANet family (combined), arXiv 1404.3606, as quoted"),
    ),
    recipe("cifar-100", "100 layers on CIFAR-100", replace(CIFAR, ridge=2.0)),
)


def pcanet(variant: str, summary: str, settings: PCANetSettings, published: tuple[float, str] | None = None) -> Recipe:
    """Make a recipe of PCANet."""
    figures = None if published is None else Published({"test_accuracy": published[0]}, published[1])
    return Recipe(
        f"pcanet/{variant}",
        summary,
        variant,
        settings,
        build_pcanet,
        lambda _settings: figures,
        lambda _settings: ("a linear classifier by stochastic gradients in place of LIBLINEAR",),
    )


PCANET = (
    pcanet("digits", "two stages on scikit-learn's digits", PCANetSettings(patch=3, block=4, stride=2, passes=4)),
    pcanet("mnist", "two stages on MNIST", PCANetSettings(), (0.9934, "PCANet-2, arXiv 1404.3606, as quoted")),
    pcanet(
        "cifar-10",
        "two stages of 40 and 8 filters on CIFAR-10",
        PCANetSettings(first=40, patch=5, block=8, stride=4, grids=(4, 2, 1)),
        (0.7714, "PCANet-2, arXiv 1404.3606, as quoted"),
    ),
    pcanet(
        "cifar-100",
        "two stages of 40 and 8 filters on CIFAR-100",
        PCANetSettings(first=40, patch=5, block=8, stride=4, grids=(4, 2, 1)),
    ),
)

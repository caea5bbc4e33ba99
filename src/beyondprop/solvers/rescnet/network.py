"""ResCNet: hundreds of convolutional layers, each fitted to what those before it leave over."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.rule import check_labels
from beyondprop.solver import Solver
from beyondprop.solvers.rescnet.features import BITS, KINDS, Kind, feature_count
from beyondprop.solvers.rescnet.images import CHUNK, check_images, image_shape, wide, widened
from beyondprop.solvers.rescnet.layer import Basis, FittedLayer
from beyondprop.solvers.rescnet.ridge import RidgeClassifier
from beyondprop.solvers.rescnet.store import Place, SampleStore


class ResCNet(Solver):
    r"""Deep residual compensation convolutional network (Alotaibi and Wilson, arXiv 2301.11663).

        A_l = filters_l * [x, A_{l-1}],    Φ_l = pooled(A_l),    β_l = ridge(Φ_l, R_{l-1}),
        P_l = what layer l predicts of R_{l-1} for each sample when it is fitted without it,
        R_l = R_{l-1} - η_l P_l,    R_0 = onehot(y),
        prediction: argmax Σ_l η_l Φ_l β_l

    No gradient and no backward pass: filters are principal components of the patches of all channels, classifiers are
    closed forms, and each layer is fitted once, in order. Only the abstract of the paper could be read; what follows
    it in the documentation's page says what is ours, which is most of the settings. Three things are ours outright:
    residual labels can be left-one-out, for residuals of the samples that a layer was fitted to shrink by fitting
    noise; samples that are held out choose the depth; and each layer sees the image beside the maps of the layer
    before it.

    A pass fits a layer. The first reads the data into a `SampleStore`, which holds of each sample the image, `carry`
    maps, D features and a row of labels, however many layers there are; the others read a batch and leave out the
    rest. A fit that goes on in another process reads the data once more, and makes the finished layers' maps anew.

    Args:
        shape: (channels, height, width) of an image; height and width divisible by `unshuffle`.
        classes: K.
        layers: L.
        filters: F of a layer; divisible by 8 for histograms.
        patch: Side of a patch, odd, in pixels of the maps.
        unshuffle: So many pixels in a row and a column become channels: the maps' height is that of the image
            divided by it, and a patch is so much wider.
        carry: Channels of a layer's maps that the next one sees beside the image; at most F.
        basis: `"prototypes"`: whitened comparisons with patches; `"components"`: the principal components themselves.
        features: `"first"`, `"second"` or `"histogram"`; see `features_of`.
        grid: Regions along each side that features are pooled over.
        offset: Of the rectification, in deviations of a response.
        floor: Of whitening: added to variances, in units of their mean.
        contrast: Of patches' normalisation; see `patches_of`. None leaves it out.
        feature_floor: `floor` of `RidgeClassifier`.
        ridge: λ of it.
        rate: η_l, above 0 and at most 1.
        line_search: Whether instead η_l = argmin_{0 <= η <= rate} ‖R_{l-1} - η P_l‖². Without it left-one-out labels
            may grow from layer to layer, without bound where there is little left to learn.
        leave_one_out: Whether residual labels are left-one-out, or plain residuals of the fit.
        mirror: Whether features are means over the image and its mirror image.
        held_out: Share of the samples, a random part, that is not fitted to and chooses the depth; 0 takes all layers.
        samples: So many images give the patches of the covariance.
        narrow: Whether maps, features and products are in bfloat16, for processors with instructions for it.
        place: Where the store is: `"memory"` or `"disk"`.
        seed: Of prototypes; None draws it from torch's generator.

    Attributes:
        depth: Layers that predict.
        course: For each layer η_l, the root mean square of the residual labels, and the accuracy and mean squared
            error of all layers up to it on the samples held out; NaN where none are. Shape (L, 4).

    Raises:
        UserError: An option is out of range, or in `fit` an image has another shape, or a label is no class index, or
            the ridge is too small.
        NonFiniteError: In `fit`, images or features are NaN or infinite.

    >>> x, y = torch.randn(60, 1, 8, 8), torch.arange(60) % 3
    >>> network = ResCNet((1, 8, 8), 3, layers=2, filters=8, carry=2, held_out=0.2).fit(x, y)
    >>> network(x[:5]).shape
    torch.Size([5, 3])
    """

    residual: Tensor
    held_scores: Tensor
    course: Tensor
    depth: Tensor
    seed: Tensor
    digest: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int = 100,
        filters: int = 128,
        patch: int = 3,
        unshuffle: int = 1,
        carry: int = 16,
        basis: Basis = "prototypes",
        features: Kind = "first",
        grid: int = 2,
        offset: float = 0.5,
        floor: float = 0.03,
        contrast: float | None = 0.1,
        feature_floor: float = 0.0,
        ridge: float = 0.3,
        rate: float = 1.0,
        leave_one_out: bool = True,
        line_search: bool = True,
        mirror: bool = False,
        held_out: float = 0.05,
        samples: int = 1000,
        narrow: bool = False,
        place: Place = "memory",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_whole(1, layers=layers, filters=filters, patch=patch, unshuffle=unshuffle, grid=grid, samples=samples)
        check_whole(0, carry=carry)
        check_whole(2, classes=classes)
        check_number(floor=floor, ridge=ridge, rate=rate, above=True)
        check_number(offset=offset, held_out=held_out, feature_floor=feature_floor)
        channels, height, width = shape
        for wrong, what in (
            (patch % 2 == 0, f"patch must be odd, not {patch}"),
            (carry > filters, f"carry must be at most the number of filters, {filters}, not {carry}"),
            (
                height % unshuffle or width % unshuffle,
                f"images of {height}x{width} cannot be unshuffled by {unshuffle}",
            ),
            (grid * unshuffle > min(height, width), f"grid {grid} has more regions than the maps have pixels"),
            (rate > 1, f"rate must be at most 1, not {rate}"),
            (held_out >= 1, f"held_out must be below 1, not {held_out}"),
            (features not in KINDS, f"features must be one of {', '.join(KINDS)}, not {features!r}"),
            (basis not in {"prototypes", "components"}, f"basis must be prototypes or components, not {basis!r}"),
            (features == "histogram" and filters % BITS, f"histograms need filters divisible by {BITS}, not {filters}"),
            (place not in {"memory", "disk"}, f"place must be memory or disk, not {place!r}"),
        ):
            if wrong:
                raise UserError(what)
        if contrast is not None:
            check_number(contrast=contrast, above=True)
        self.shape, self.classes = tuple(shape), classes
        self.basis, self.kind, self.grid, self.offset, self.floor = basis, features, grid, offset, floor
        self.contrast, self.ridge, self.rate, self.leave_one_out = contrast, ridge, rate, leave_one_out
        self.feature_floor = feature_floor
        self.unshuffle, self.carry, self.mirror, self.held_out = unshuffle, carry, mirror, held_out
        self.samples, self.narrow, self.place, self.line_search = samples, narrow, place, line_search
        size = feature_count(features, filters, grid)
        base = channels * unshuffle**2
        self.layers = nn.ModuleList(
            FittedLayer((filters, base + (carry if number else 0), patch, patch), carry, (classes, size))
            for number in range(layers)
        )
        self.passes = tuple(f"layer {number + 1}" for number in range(layers))
        self.register_buffer("residual", torch.zeros(0, classes))
        self.register_buffer("held_scores", torch.zeros(0, classes))
        self.register_buffer("course", torch.full((layers, 4), torch.nan))
        self.register_buffer("depth", torch.tensor(0))
        self.register_buffer("seed", torch.randint(2**31, ()) if seed is None else torch.tensor(seed))
        self.register_buffer("digest", torch.tensor(0))  # of the samples
        self._store: SampleStore | None = None
        self._filling = False
        self._maps: list[Tensor] = []
        self._features: Tensor | None = None

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Fit to images of the example's shape; of the classifier nothing is used.

        Raises:
            UserError: The example is no batch of images.
        """
        del network
        return cls(image_shape(example, "ResCNet"), classes, **options)

    def begin(self, part: str) -> None:
        """Make an empty store, unless the passes before it have filled one."""
        if part == self.passes[0] or self._store is None or self._filling:
            self._store, self._filling = SampleStore(self.place), True
            self._maps, self._features = [], None

    def absorb(self, x: Tensor, y: Tensor, part: str) -> bool:
        """Store a batch, where the store is not full already.

        Args:
            x: Images, shape (batch, channels, height, width).
            y: Class indices, shape (batch,).
            part: The pass.
        """
        del part
        assert self._store is not None, "begin comes first"
        if self._filling:
            check_images(x, self.shape)
            self._store.add(x, check_labels(y, self.classes), self._dtype)
        return not self._filling

    def conclude(self, part: str) -> None:
        """Fit a layer; after the last one choose the depth and forget the samples."""
        number = self.passes.index(part)
        with torch.autocast(self.depth.device.type, enabled=False):  # `narrow` says what is narrow, for fit and forward
            if self._filling:
                self._open_store(number)
            self._fit_layer(number)
        if number + 1 == len(self.layers):
            self._store, self._maps, self._features = None, [], None
            self.residual, self.held_scores = self.residual[:0].clone(), self.held_scores[:0].clone()

    def figures(self, part: str) -> dict[str, float]:
        """`held_out_accuracy` of all layers up to this one, where samples are held out."""
        accuracy = float(self.course[self.passes.index(part), 2])
        return {} if math.isnan(accuracy) else {"held_out_accuracy": accuracy}

    def forward(self, x: Tensor, depth: int | None = None) -> Tensor:
        """Class scores, shape (batch, K).

        Args:
            x: Images.
            depth: Layers that predict, in place of those that samples held out have chosen.
        """
        check_images(x, self.shape)
        depth = int(self.depth) if depth is None else depth
        if not 0 <= depth <= len(self.layers):
            raise UserError(f"depth must lie in 0..{len(self.layers)}, not {depth}")
        with torch.autocast(x.device.type, enabled=False):
            blank = x.new_zeros(len(x), self.classes, dtype=self._wide)
            chunks = zip(x.to(self._dtype).split(CHUNK), blank.split(CHUNK), strict=True)
            scores = [deque(self._scores_by_depth(some, depth), maxlen=1) or [none] for some, none in chunks]
        return torch.cat([last[0] for last in scores]).to(wide(x.dtype))

    def right_by_depth(self, x: Tensor, y: Tensor) -> Tensor:
        """How many of some images each depth has right, shape (L,); for pictures, not for choosing.

        Args:
            x: Images.
            y: Class indices, shape (batch,).
        """
        right = torch.zeros(len(self.layers), dtype=torch.int64, device=x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for some, labels in zip(x.to(self._dtype).split(CHUNK), y.split(CHUNK), strict=True):
                for number, scores in enumerate(self._scores_by_depth(some, len(self.layers))):
                    right[number] += (scores.argmax(dim=1) == labels).sum()
        return right

    @property
    def _dtype(self) -> torch.dtype:
        """In which maps are made."""
        return torch.bfloat16 if self.narrow else self._layer(0).weight.dtype

    @property
    def _wide(self) -> torch.dtype:
        """In which scores are added up."""
        return wide(self._dtype)

    @property
    def _layout(self) -> torch.memory_format:
        """Of what filters meet: pixels' channels side by side are twice as fast in bfloat16."""
        return torch.channels_last if self.narrow else torch.contiguous_format

    def _layer(self, number: int) -> FittedLayer:
        return cast(FittedLayer, self.layers[number])

    def _views(self, x: Tensor) -> list[Tensor]:
        """The image, and its mirror image where that counts, with pixels as channels."""
        sides = [x, x.flip(3)] if self.mirror else [x]
        return [F.pixel_unshuffle(side, self.unshuffle) for side in sides]

    def _run(self, number: int, views: list[Tensor], maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features of a layer, and the maps that it hands on."""
        layer, found, following = self._layer(number), [], []
        for side, view in enumerate(views):
            seen = torch.cat([view, maps[side]], dim=1) if number and self.carry else view
            seen = seen.contiguous(memory_format=self._layout)
            features, handed = layer.look(
                seen, contrast=self.contrast, kind=self.kind, grid=self.grid, offset=self.offset
            )
            found.append(features)
            following.append(handed)
        features = found[0] if len(found) == 1 else (found[0] + found[1]) / 2
        return features.to(self._dtype), following

    def _scores_by_depth(self, x: Tensor, depth: int) -> Iterator[Tensor]:
        """Scores after each layer; one tensor, to which the next layer adds."""
        views, maps = self._views(x), list[Tensor]()
        scores = torch.zeros(len(x), self.classes, dtype=self._wide, device=x.device)
        for number in range(depth):
            features, maps = self._run(number, views, maps)
            layer = self._layer(number)
            scores += widened(features) @ widened(layer.weight.T) + widened(layer.bias)
            yield scores

    def _open_store(self, number: int) -> None:
        """All samples are there: make what the finished layers have made of them."""
        store = cast(SampleStore, self._store)
        store.close()
        held = round(self.held_out * len(store))
        if held == len(store):
            raise UserError(f"held_out {self.held_out:g} of {len(store)} samples leaves none to fit: lower it")
        if number == 0:
            self.digest.copy_(store.digest)
            self.residual = F.one_hot(store.labels[held:], self.classes).to(self._wide)
            self.held_scores = torch.zeros(held, self.classes, dtype=self._wide, device=store.images.device)
        elif len(self.residual) + len(self.held_scores) != len(store):
            raise UserError(
                f"the fit began with {len(self.residual) + len(self.held_scores)} samples, not {len(store)}: go on "
                "with the same data"
            )
        elif store.digest != self.digest:
            raise UserError("the fit began with other samples, or other labels: go on with the same data")
        self._filling = False
        height, width = (side // self.unshuffle for side in self.shape[1:])
        shape = (len(store), self.carry, height, width)
        self._maps = [store.room(shape, self._dtype, store.images.device) for _ in range(1 + self.mirror)]
        for start in range(0, len(store) if number else 0, CHUNK):
            rows = slice(start, start + CHUNK)
            views, maps = self._views(store.images[rows]), list[Tensor]()
            for before in range(number):
                _, maps = self._run(before, views, maps)
            for kept, new in zip(self._maps, maps, strict=True):
                kept[rows] = new

    def _fit_layer(self, number: int) -> None:
        store, layer = cast(SampleStore, self._store), self._layer(number)
        held = len(self.held_scores)
        self._fit_filters(number, held)
        if self._features is None:
            self._features = store.room((len(store), layer.weight.shape[1]), self._dtype, store.images.device)
        for start in range(0, len(store), CHUNK):
            rows = slice(start, start + CHUNK)
            features, following = self._run(number, self._views(store.images[rows]), [m[rows] for m in self._maps])
            self._features[rows] = features
            for kept, new in zip(self._maps, following, strict=True):
                kept[rows] = new
        fitted, kept_out = self._features[held:], self._features[:held]
        ridge = RidgeClassifier(fitted, self.residual, self.ridge, floor=self.feature_floor, narrow=self.narrow)
        predicted, step = ridge.predicted(fitted), self.rate
        if self.leave_one_out:
            left = (self.residual - predicted) / ridge.left_over(fitted)[:, None].to(predicted.dtype)
            predicted = self.residual - left
        if self.line_search:
            length = float(predicted.double().square().sum())
            best = float((self.residual * predicted).sum(dtype=torch.float64)) / length if length else 0.0
            step = min(max(best, 0.0), self.rate)
        layer.weight.copy_(step * ridge.weight)
        layer.bias.copy_(step * ridge.bias)
        self.residual = self.residual - step * predicted
        self.held_scores = self.held_scores + step * ridge.predicted(kept_out)
        self.course[number, 0] = step
        self.course[number, 1] = self.residual.square().mean().sqrt()
        if held:
            labels = store.labels[:held]
            self.course[number, 2] = (self.held_scores.argmax(dim=1) == labels).double().mean()
            self.course[number, 3] = (self.held_scores - F.one_hot(labels, self.classes)).square().sum(dim=1).mean()
        self.depth.fill_(int(self.course[: number + 1, 2].argmax()) + 1 if held else number + 1)

    def _fit_filters(self, number: int, held: int) -> None:
        """Principal components of the patches of the first samples that are fitted to, and the scales of responses."""
        store, layer = cast(SampleStore, self._store), self._layer(number)
        rows = torch.arange(held, min(held + self.samples, len(store)), device=store.images.device)

        def seen(chosen: Tensor) -> Tensor:
            view = self._views(store.images[chosen])[0]
            maps = torch.cat([view, self._maps[0][chosen]], dim=1) if number and self.carry else view
            return widened(maps)

        layer.fit_filters(
            seen,
            rows,
            basis=self.basis,
            contrast=self.contrast,
            floor=self.floor,
            offset=self.offset,
            dtype=self._dtype,
            seed=int(self.seed) + number,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the number of samples of an unfinished fit."""
        for name in ("residual", "held_scores"):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.shape[1:] == (self.classes,):
                setattr(self, name, saved.new_empty(saved.shape, device=getattr(self, name).device))
        self._store = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

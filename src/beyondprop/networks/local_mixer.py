"""LocalMixer: a network of patches and groups of channels, made for local losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.errors import UserError
from beyondprop.layers.grouped_linear import GroupedLinear
from beyondprop.layers.normed_linear import Evaluation, NormedLinear, by_group

Draw = Callable[[Tensor], Tensor]
Teacher = Callable[[Tensor], Iterator[tuple[nn.Parameter, Tensor]]]


class Size(NamedTuple):
    """How large a LocalMixer is: blocks, patches on a side, channels, groups."""

    blocks: int
    side: int
    channels: int
    groups: int


SIZES = {
    "S/1/1": Size(1, 1, 256, 1),
    "M/1/16": Size(1, 1, 512, 16),
    "M/8/16": Size(4, 8, 512, 16),
    "L/8/64": Size(4, 8, 2048, 64),
}
"""The paper's networks, by name: size/patches on a side/groups."""


class LocalMixer(nn.Module):
    """LocalMixer (Ren, Kornblith, Liao and Hinton, arXiv 2210.03310, Section 4).

    The image is cut into side x side patches, the tokens. The first block mixes the channels of each token; later ones
    mix the tokens of each channel first, by one matrix for all channels. Every linear layer stands between norms
    without parameters, and the second of the channel layers is cut into groups. Features have the shape (batch,
    patches, channels). Each block has a head that reads the classes off its features, averaged over the patches; the
    network's own output is a readout behind the last block, which begins at zero.

    Args:
        image: Channels, height and width; or one number, of inputs without places, for a side of 1.
        classes: Scores a sample.
        blocks: Number of blocks.
        side: Patches on a side; it divides height and width.
        channels: Of the features, and of the layer between.
        groups: Of channels.
        scale: Standard deviation of the weights at the beginning; biases are 0.

    Raises:
        UserError: The side does not divide the image, or the groups the channels, or a size is no whole number above 0.

    >>> sum(p.numel() for p in LocalMixer.named("M/1/16", (1, 28, 28), 10).parameters())
    429076
    """

    def __init__(
        self,
        image: Sequence[int],
        classes: int,
        *,
        blocks: int,
        side: int,
        channels: int,
        groups: int,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        check_whole(1, classes=classes, blocks=blocks, side=side, channels=channels, groups=groups)
        check_number(scale=scale)
        places = tuple(image[1:])
        if any(size % side for size in places) or (not places and side > 1):
            raise UserError(f"an image of shape {tuple(image)} cannot be cut into {side} x {side} patches")
        if channels % groups:
            raise UserError(f"{groups} groups do not divide {channels} channels")
        self.image, self.side, self.patches, self.groups = tuple(image), side, side**2, groups
        sizes = [math.prod(image) // self.patches, *[channels] * (blocks - 1)]
        self.blocks = nn.ModuleList(
            MixerBlock(inputs, channels, self.patches if number else 0, groups) for number, inputs in enumerate(sizes)
        )
        self.heads = nn.ModuleList(nn.Linear(channels, classes) for _ in range(blocks))
        self.readout = nn.Linear(channels, classes)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1 or name == "readout.weight":
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=scale)

    @classmethod
    def named(cls, name: str, image: Sequence[int], classes: int, *, scale: float = 0.1) -> LocalMixer:
        """Make one of the paper's networks.

        Args:
            name: One of `SIZES`.
            image: As of the class.
            classes: As of the class.
            scale: As of the class.

        Raises:
            UserError: There is none of this name; and as the constructor.
        """
        if name not in SIZES:
            raise UserError(f"there is no LocalMixer {name!r}: take one of {', '.join(SIZES)}")
        return cls(image, classes, **SIZES[name]._asdict(), scale=scale)

    def tokens(self, x: Tensor) -> Tensor:
        """Cut images into patches: shape (batch, patches, numbers of a patch)."""
        if self.side == 1:
            return x.flatten(1)[:, None]
        n, c, h, w = x.shape
        cut = x.view(n, c, self.side, h // self.side, self.side, w // self.side)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, self.patches, -1)

    def features(self, h: Tensor) -> Tensor:
        """A block's output has this shape: (batch, patches, channels)."""
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores of shape (batch, classes)."""
        h = self.tokens(x)
        for block in self.blocks:
            h = block(h)
        scores: Tensor = self.readout(h.mean(dim=1))
        return scores


class MixerBlock(nn.Module):
    """One block of a LocalMixer: its layers, a ReLU behind each; what comes in is added before the last one.

    Args:
        inputs: Channels of the input.
        channels: Of the output.
        patches: Tokens to be mixed first; 0 in the first block, which mixes none and adds nothing.
        groups: Of channels.
    """

    def __init__(self, inputs: int, channels: int, patches: int, groups: int) -> None:
        super().__init__()
        self.adds = patches > 0
        layers = [NormedLinear(nn.Linear(patches, patches), tokens=True, reach="patch")] if self.adds else []
        layers += [
            NormedLinear(nn.Linear(inputs, channels)),
            NormedLinear(GroupedLinear(channels, channels, groups), groups=groups),
        ]
        self.layers = nn.ModuleList(layers)
        self.activations = nn.ModuleList(nn.ReLU() for _ in layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (batch, patches, inputs) to (batch, patches, channels)."""
        h = x
        for layer, activation in zip(self.layers, self.activations, strict=True):
            z = layer(h)
            h = activation(z + x if self.adds and layer is self.layers[-1] else z)
        return h

    def perturbed(
        self, x: Tensor, dx: Tensor | None, *, weights: bool, draw: Draw
    ) -> tuple[Tensor, Tensor, list[Teacher]]:
        """Evaluate the block with random tangents: what `LocalForwardGradient` asks of a block.

        Noise moves the output of every layer, before what is added to it and before the ReLU; or all weights and
        biases move. Where a ReLU is off there is no signal.

        Args:
            x: Features.
            dx: Their tangent, None for zero.
            weights: Whether the weights move, and not the activities.
            draw: Makes noise of the shape of a tensor.

        Returns:
            The output, its tangent, and for each layer what teaches it: called with how the losses change, of shape
            (batch, patches, groups) or 1 in the place of any, it gives parameters with their gradients.
        """
        h, dh, teachers = x, dx, list[Teacher]()
        for layer in self.layers:
            assert isinstance(layer, NormedLinear)
            directions = [draw(p) for p in layer.linear.parameters()] if weights else []
            call = layer.evaluate(h, dh, directions)
            h, dh = call.z, call.dz  # nobody else has them: what follows is done in place
            if self.adds and layer is self.layers[-1]:
                h += x
                dh = dh if dx is None else dx.clone() if dh is None else dh.add_(dx)
            h.relu_()
            if weights:
                teachers.append(partial(_teach_by_weights, layer, directions))
            else:
                noise = draw(h)
                dh = noise.clone() if dh is None else dh.add_(noise)
                teachers.append(partial(_teach_by_activities, call, h, noise))
            if dh is not None:
                _switch_off(dh, h)
        assert dh is not None
        return h, dh, teachers


def _teach_by_activities(
    call: Evaluation, h: Tensor, noise: Tensor, change: Tensor
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    if call.layer.reach == "patch":
        change = change.sum(dim=2, keepdim=True)
    by_group(noise, change.shape[2]).mul_(change[..., None])
    return call.gradients(_switch_off(noise, h))


def _teach_by_weights(
    layer: NormedLinear, directions: Sequence[Tensor], change: Tensor
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """One direction serves the whole batch. What leads to a group learns from that group's losses."""
    change = change.sum(dim=(0, 1))
    if layer.reach == "patch":
        change = change.sum(dim=0, keepdim=True)
    for parameter, direction in zip(layer.linear.parameters(), directions, strict=True):
        yield parameter, (direction.view(len(change), -1) * change[:, None].to(direction.dtype)).view_as(parameter)


def _switch_off(change: Tensor, h: Tensor) -> Tensor:
    """Set to zero, in place, what stands where the ReLU that gave h is off."""
    torch.ops.aten.threshold_backward(change, h, 0, grad_input=change)
    return change

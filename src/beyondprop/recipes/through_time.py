"""Settings of recurrent networks that are trained through time, and the tasks that they are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beyondprop.recipe import Settings
from beyondprop.recipes.user_file import UserFile

if TYPE_CHECKING:
    from beyondprop.data import Splits


@dataclass(frozen=True, kw_only=True)
class ThroughTime(Settings):
    """Settings of a recurrent network and of the plain gradient descent that trains it."""

    batch_size: int = 20
    """Sequences in a batch."""
    validation: int = 0
    """Sequences held out of the training set; 0 trains on all of it."""
    learning_rate: float = 0.1
    """Of the readout; the recurrent layer's is this times `recurrent_step`."""
    weight_decay: float = 0.0
    momentum: float = 0.0
    """Nesterov's."""
    recurrent_step: float = 1e-2
    """g, how far targets lie against the gradient; of back-propagation, a factor to the recurrent layer's rate."""
    clip_surge: float = 5.0
    """How many times its usual norm the recurrent layer's gradient may have; 0 does not clip."""
    hidden: int = 100
    """Length of the state."""
    cell: Literal["tanh", "relu", "gru"] = "tanh"
    """Units of the recurrent layer."""
    layers: int = 1
    """Recurrent layers, one above the other."""
    regularisation: float = 1.0
    """r, of the inverse."""
    clip: float = 0.0
    """How near to the ends of its range a state counts as where the inverse divides; 0 keeps targets from growing."""
    targets: Literal["linearised", "difference", "plain"] = "linearised"
    """How targets go back in time."""
    mode: Literal["through_time", "local"] = "through_time"
    """Whether credit passes through earlier states as well."""
    noise: float = 0.0
    """Of a learned inverse: deviation of what it is to reconstruct."""
    inverse_rate: float = 1e-3
    """Of a learned inverse: its learning rate."""


@dataclass(frozen=True, kw_only=True)
class Order(ThroughTime):
    """Settings of temporal order."""

    length: int = 60
    """Steps of a sequence."""
    sequences: int = 2000
    """Of an epoch, all fresh: 100 steps."""

    def data(self) -> Splits:
        """Draw the sequences."""
        from beyondprop.data.sequence_tasks import temporal_order

        return temporal_order(self.length, train=self.sequences + self.validation)


@dataclass(frozen=True, kw_only=True)
class Adding(ThroughTime):
    """Settings of the adding problem."""

    length: int = 30
    """Steps of a sequence."""
    sequences: int = 2000
    """Of an epoch, all fresh: 100 steps."""
    validation: int = 400

    def data(self) -> Splits:
        """Draw the sequences."""
        from beyondprop.data.sequence_tasks import marked_mean

        return marked_mean(self.length, train=self.sequences + self.validation)


@dataclass(frozen=True, kw_only=True)
class Pieces(ThroughTime):
    """Settings of images that are read piece by piece."""

    batch_size: int = 16
    """Images in a batch."""
    piece: int = 1
    """Numbers that are read in a step: 1 for pixels, the image's width for rows."""
    permuted: bool = False
    """Whether an image's numbers stand in a random order, the same for all images."""


@dataclass(frozen=True, kw_only=True)
class Characters(UserFile, ThroughTime):
    """Settings of the characters of a text."""

    holds = "any UTF-8 text of some thousand characters"
    file: str = ""
    """Your own UTF-8 text."""

    window: int = 64
    """Characters a sequence."""

    def data(self) -> Splits:
        """Read the file.

        Raises:
            UserError: None is named, or it cannot be used, or it is not the one of the checksum.
        """
        from beyondprop.data.sequence_tasks import characters

        return characters(self.checked_file(), window=self.window)[0]

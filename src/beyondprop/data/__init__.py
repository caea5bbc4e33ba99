"""Data sets that live whole on the device, and batches made from them.

`names` and all that needs only file names stay free of torch: the rest is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from beyondprop.data.registry import names
from beyondprop.lazy import lazy_names

if TYPE_CHECKING:
    from beyondprop.data.batches import Batches
    from beyondprop.data.files import verify, where
    from beyondprop.data.loading import load
    from beyondprop.data.sets import DescribedSet, ImageSet, SequenceSet, Splits, image_set
    from beyondprop.data.splitting import hold_out
    from beyondprop.data.statistics import Statistics

__all__ = [
    "Batches",
    "DescribedSet",
    "ImageSet",
    "SequenceSet",
    "Splits",
    "Statistics",
    "hold_out",
    "image_set",
    "load",
    "names",
    "verify",
    "where",
]

_HOME = {
    "Batches": "batches",
    "DescribedSet": "sets",
    "ImageSet": "sets",
    "SequenceSet": "sets",
    "Splits": "sets",
    "Statistics": "statistics",
    "hold_out": "splitting",
    "image_set": "sets",
    "load": "loading",
    "verify": "files",
    "where": "files",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)

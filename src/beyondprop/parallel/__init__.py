"""Several processes, on one machine or many, that train one rule: its blocks learn alone, or it is only evaluated.

- `Place`: which process this is, and which blocks are its own.
- `Share`: a rule's blocks in one process, for a loop of your own; `SeedShare`: a rule's evaluations.
- `combine`: the parts put together again.
- `train`: one process's run of a recipe; `merge`: one finished run from those of all processes.

`Place` and `find_place` stay free of torch: the rest is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names
from beyondprop.parallel.place import Place, find_place

if TYPE_CHECKING:
    from beyondprop.parallel.merging import merge
    from beyondprop.parallel.runs import train
    from beyondprop.parallel.seeds import SeedShare
    from beyondprop.parallel.share import Share, combine

__all__ = ["Place", "SeedShare", "Share", "combine", "find_place", "merge", "train"]

_HOME = {"SeedShare": "seeds", "Share": "share", "combine": "share", "merge": "merging", "train": "runs"}

__getattr__, __dir__ = lazy_names(__name__, _HOME)

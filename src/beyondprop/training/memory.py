"""Peak memory of a run."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The largest memory in use so far.

    Returns:
        Bytes: on cuda what torch had allocated there at most; elsewhere the peak resident set of the whole process,
        with the interpreter, torch itself and the data.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

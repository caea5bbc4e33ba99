"""A list of layers cut into sections: what stands between two states, and the activation behind it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from beyondprop.errors import UnsupportedNetworkError
from beyondprop.rules.relaxation.connections import STAGES, Connection, Stage, make_stage
from beyondprop.sequential import flattened, out_of_place


class Section(NamedTuple):
    """A connection and the activation of the states that it leads to."""

    name: str
    connection: Connection
    activation: nn.Module | None

    def squash(self, drive: Tensor) -> Tensor:
        """Apply the activation; the drive, which other states may be waiting for, stays as it is."""
        return drive if self.activation is None else out_of_place(self.activation, drive)


def split(layers: nn.Sequential) -> list[Section]:
    """Cut a list of layers behind each activation.

    Returns:
        The sections; the last one's activation is None where layers stand behind the last activation.

    Raises:
        UnsupportedNetworkError: A layer is not known.
    """
    sections: list[Section] = []
    stages: list[Stage] = []
    for name, module in flattened(layers):
        if is_activation(module):
            sections.append(Section(name, Connection(stages), module))
            stages = []
        elif (stage := make_stage(name, module)) is not None:
            stages.append(stage)
    if stages:
        sections.append(Section(stages[-1].name, Connection(stages), None))
    if not any(True for section in sections for stage in section.connection.stages for _ in stage.module.parameters()):
        raise UnsupportedNetworkError("the network has no layer with weights")
    return sections


def is_activation(module: nn.Module) -> bool:
    """Whether a module has no weights and treats each number by itself, found by trying it on a few numbers."""
    if isinstance(module, (*STAGES, nn.Identity, nn.modules.dropout._DropoutNd)):
        return False
    if any(True for _ in module.parameters()) or any(True for _ in module.children()):
        return False
    row = torch.tensor([-2.5, -0.6, -0.1, 0.2, 0.4, 0.9, 1.7, 3.1])
    numbers = torch.stack([row, row.roll(3)])
    try:
        with torch.no_grad():
            whole = torch.cat([module(numbers.clone())])  # cat refuses what is no tensor
            rows = torch.cat([module(part.clone()) for part in numbers.split(1)])
            columns = torch.cat([module(part.clone()) for part in numbers.split(1, dim=1)], dim=1)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    if not whole.shape == rows.shape == columns.shape == numbers.shape:
        return False
    return torch.allclose(whole, rows) and torch.allclose(whole, columns)

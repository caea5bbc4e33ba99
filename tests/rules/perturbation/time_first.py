"""A network whose layers do not see the batch first."""

from torch import nn


class TimeFirst(nn.Module):
    """Its first layer sees (time, batch, ...)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.first(x.transpose(0, 1)).mean(dim=0))

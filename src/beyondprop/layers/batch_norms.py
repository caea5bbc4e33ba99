"""Which modules normalise by a batch, torch's own and the quaternion ones, and what statistics they keep."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from beyondprop.layers.quaternion.norm import _QuaternionBatchNorm

BATCH_NORMS: tuple[type[nn.Module], ...] = (_BatchNorm, _QuaternionBatchNorm)
_WITH_STATISTICS: tuple[type[nn.Module], ...] = (_NormBase, _QuaternionBatchNorm)
_STATISTICS = ("running_mean", "running_var", "running_covariance")


def mixes_samples(network: nn.Module) -> bool:
    """Whether a sample's output depends on the others', by a batch norm that uses the batch's statistics.

    >>> mixes_samples(nn.BatchNorm1d(3)), mixes_samples(nn.BatchNorm1d(3).eval())
    (True, False)
    """
    return any(isinstance(m, BATCH_NORMS) and (m.training or m.running_mean is None) for m in network.modules())


def running_statistics(network: nn.Module) -> dict[str, Tensor]:
    """The statistics that norms keep of the data, instance norms among them, by name.

    >>> list(running_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    ['1.running_mean', '1.running_var']
    """
    return {
        f"{name}.{kept}" if name else kept: buffer
        for name, module in network.named_modules()
        if isinstance(module, _WITH_STATISTICS)
        for kept in _STATISTICS
        if (buffer := module._buffers.get(kept)) is not None
    }

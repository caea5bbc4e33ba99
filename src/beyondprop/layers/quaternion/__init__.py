"""Quaternion layers whose backward pass follows the GHR calculus, with half the products of the usual real matrix."""

from beyondprop.layers.quaternion.conv import (
    QuaternionConv1d,
    QuaternionConv2d,
    QuaternionConv3d,
    QuaternionConvTranspose1d,
    QuaternionConvTranspose2d,
    QuaternionConvTranspose3d,
)
from beyondprop.layers.quaternion.conversion import Conversion, to_quaternion
from beyondprop.layers.quaternion.linear import QuaternionLinear
from beyondprop.layers.quaternion.norm import (
    QuaternionBatchNorm1d,
    QuaternionBatchNorm2d,
    QuaternionBatchNorm3d,
    QuaternionLayerNorm,
)
from beyondprop.layers.quaternion.recurrent import QLSTM, QRNN

__all__ = [
    "QLSTM",
    "QRNN",
    "Conversion",
    "QuaternionBatchNorm1d",
    "QuaternionBatchNorm2d",
    "QuaternionBatchNorm3d",
    "QuaternionConv1d",
    "QuaternionConv2d",
    "QuaternionConv3d",
    "QuaternionConvTranspose1d",
    "QuaternionConvTranspose2d",
    "QuaternionConvTranspose3d",
    "QuaternionLayerNorm",
    "QuaternionLinear",
    "to_quaternion",
]

"""Real networks made to quaternion ones of the same widths, layer by layer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.layers.quaternion.conv import CONVOLUTIONS
from beyondprop.layers.quaternion.linear import QuaternionLinear, Sides
from beyondprop.layers.quaternion.norm import (
    QuaternionBatchNorm1d,
    QuaternionBatchNorm2d,
    QuaternionBatchNorm3d,
    QuaternionLayerNorm,
)
from beyondprop.layers.quaternion.recurrent import QLSTM, QRNN

BATCH_NORMS = {
    nn.BatchNorm1d: QuaternionBatchNorm1d,
    nn.BatchNorm2d: QuaternionBatchNorm2d,
    nn.BatchNorm3d: QuaternionBatchNorm3d,
}
# They read their layers' weights by themselves.
SEALED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class Conversion(NamedTuple):
    """What `to_quaternion` gives.

    Attributes:
        network: A copy of the network, with quaternion layers.
        converted: Names of the layers that are quaternion ones now.
        kept: Names of the layers with parameters that stayed real, each with the reason.
    """

    network: nn.Module
    converted: tuple[str, ...]
    kept: dict[str, str]


def to_quaternion(network: nn.Module, *, side: Sides = "left", skip: Collection[str] = ()) -> Conversion:
    """Put quaternion layers of the same widths in the place of a network's real ones.

    Linear layers, convolutions and their transposes, batch and layer normalisation, RNNs and LSTMs are converted where
    their widths divide by four; a quarter of the weights is left, drawn anew. Activations, dropout and pooling act on
    each number or channel and stay. Flattening keeps the blocks in order, since channels stand first; a layer that
    mixes channels otherwise (a pixel shuffle) does not, which no conversion can see.

    Args:
        network: It is left as it is.
        side: Where the weights stand.
        skip: Names of layers to be kept.

    Returns:
        The converted copy, and which layers were converted and which kept.

    Raises:
        UserError: `skip` names no layer.
        UnsupportedNetworkError: No layer could be converted; the message gives the reason for each.

    >>> network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    >>> _, converted, kept = to_quaternion(network)
    >>> converted, kept
    (('0',), {'2': 'its width 10 does not divide by four'})
    """
    if unknown := set(skip) - {name for name, _ in network.named_modules()}:
        raise UserError(f"skip names no layer of the network: {sorted(unknown)}")
    network = copy.deepcopy(network)
    owners = Counter(id(p) for module in network.modules() for p in module.parameters(recurse=False))
    made: dict[int, nn.Module] = {}
    converted, kept = [], {}
    for name, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        sealed = next((outer for outer in SEALED if _inside(network, name, outer)), None)
        if not own and sealed is None:
            continue
        if name in skip:
            kept[name] = "it is to be skipped"
        elif sealed is not None:
            if own:
                kept[name] = f"{sealed.__name__} reads its weights by itself"
        elif any(owners[id(p)] > 1 for p in own):
            kept[name] = "it shares a parameter with another layer"
        elif isinstance(reason := _converted(module, side), str):
            kept[name] = reason
        else:
            made[id(module)] = reason
            converted.append(name)
    if not converted:
        reasons = "; ".join(f"{name or 'the network'}: {reason}" for name, reason in kept.items())
        raise UnsupportedNetworkError(f"no layer can be a quaternion one ({reasons or 'none has parameters'})")
    places = [name for name, module in network.named_modules(remove_duplicate=False) if id(module) in made]
    for name in places:
        if not name:
            return Conversion(made[id(network)], ("",), {})
        network.set_submodule(name, made[id(network.get_submodule(name))])
    return Conversion(network, tuple(converted), kept)


def _inside(network: nn.Module, name: str, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind, or within one."""
    parts = name.split(".") if name else []
    return any(isinstance(network.get_submodule(".".join(parts[:depth])), kind) for depth in range(len(parts) + 1))


def _converted(module: nn.Module, side: Sides) -> nn.Module | str:
    """The quaternion layer, or why there is none."""
    kind = type(module)
    found: nn.Module | str
    if kind is nn.Linear:
        assert isinstance(module, nn.Linear)
        found = _uneven(module.in_features, module.out_features) or QuaternionLinear(
            module.in_features, module.out_features, module.bias is not None, side=side
        )
    elif kind in CONVOLUTIONS:
        found = _convolution(module, side)
    elif kind in BATCH_NORMS:
        found = _batch_norm(module)
    elif kind is nn.LayerNorm:
        found = _layer_norm(module)
    elif kind in (nn.RNN, nn.LSTM):
        found = _recurrent(module, side)
    else:
        return f"{kind.__name__} has no quaternion form here"
    if isinstance(found, str):
        return found
    if any(hooks for name, hooks in vars(module).items() if name.endswith("_hooks")):  # of every kind
        return "it has hooks, which would be lost"
    first = next(module.parameters())
    for name, parameter in found.named_parameters():
        parameter.requires_grad_(any(real.requires_grad for real in _counterparts(module, name)))
    return found.to(device=first.device, dtype=first.dtype).train(module.training)


def _counterparts(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The real parameters in whose place a quaternion one stands; torch's recurrent layers have two biases for one."""
    own = dict(module.named_parameters())
    if name in own:
        return [own[name]]
    part, place, kind = name.split(".")  # of `QRNN` and `QLSTM`: inputs.0.bias
    assert isinstance(module, nn.RNNBase)
    layer, backward = divmod(int(place), 2 if module.bidirectional else 1)
    end = f"l{layer}{'_reverse' if backward else ''}"
    ways = ("ih", "hh") if kind == "bias" else ("ih",) if part == "inputs" else ("hh",)
    return [own[f"{kind}_{way}_{end}"] for way in ways]


def _uneven(*widths: int) -> str:
    """Name the first width that does not divide by four; empty where all do."""
    return next((f"its width {width} does not divide by four" for width in widths if width % 4), "")


def _convolution(module: nn.Module, side: Sides) -> nn.Module | str:
    m = module
    assert isinstance(m, torch.nn.modules.conv._ConvNd)
    if reason := _uneven(m.in_channels, m.out_channels):
        return reason
    if (m.in_channels // 4) % m.groups or (m.out_channels // 4) % m.groups:
        return f"its {m.groups} groups do not divide {m.in_channels // 4} and {m.out_channels // 4} quaternions"
    options = {"output_padding": m.output_padding} if m.transposed else {}
    try:
        made: nn.Module = CONVOLUTIONS[type(m)](
            m.in_channels,
            m.out_channels,
            m.kernel_size,
            m.stride,
            m.padding,
            dilation=m.dilation,
            groups=m.groups,
            bias=m.bias is not None,
            padding_mode=m.padding_mode,
            side=side,
            **options,
        )
    except UserError as error:
        return str(error)
    return made


def _batch_norm(module: nn.Module) -> nn.Module | str:
    m = module
    assert isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    if m.running_mean is None or m.momentum is None:
        return "it has no running statistics, or a cumulative average of them"
    return _uneven(m.num_features) or BATCH_NORMS[type(m)](m.num_features, m.eps, m.momentum)


def _layer_norm(module: nn.Module) -> nn.Module | str:
    assert isinstance(module, nn.LayerNorm)
    if len(module.normalized_shape) != 1 or module.bias is None:
        return "it normalises several dimensions, or has no bias"
    return _uneven(*module.normalized_shape) or QuaternionLayerNorm(module.normalized_shape[0], module.eps)


def _recurrent(module: nn.Module, side: Sides) -> nn.Module | str:
    assert isinstance(module, nn.RNN | nn.LSTM)
    if module.proj_size:
        return "it projects its states"
    if reason := _uneven(module.input_size, module.hidden_size):
        return reason
    kind = QLSTM if isinstance(module, nn.LSTM) else QRNN
    options = {} if isinstance(module, nn.LSTM) else {"nonlinearity": module.nonlinearity}
    return kind(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
        side=side,
        **options,
    )

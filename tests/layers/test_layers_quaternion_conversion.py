"""Conversion of real networks: shapes are kept, and what stays real is told by name."""

import copy

import pytest
import torch
from torch import nn

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.layers.quaternion import (
    QLSTM,
    QRNN,
    QuaternionBatchNorm2d,
    QuaternionConv2d,
    QuaternionConvTranspose2d,
    QuaternionLayerNorm,
    QuaternionLinear,
    to_quaternion,
)


def image_network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, dilation=2, groups=2, padding_mode="reflect", bias=False),
        nn.ConvTranspose2d(32, 16, 3, stride=2, output_padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 24),
        nn.LayerNorm(24),
        nn.Linear(24, 10),
    )


def test_shapes_modes_and_dtype_are_kept():
    network, x = image_network().double().eval(), torch.randn(2, 3, 9, 9).double()
    before = copy.deepcopy(network.state_dict())
    converted, names, kept = to_quaternion(network)
    assert converted(x).shape == network(x).shape
    kinds = [QuaternionBatchNorm2d, QuaternionConv2d, QuaternionConvTranspose2d, QuaternionLinear, QuaternionLayerNorm]
    assert [type(converted[int(name)]) for name in names] == kinds
    assert names == ("1", "3", "4", "7", "8")
    assert kept == {"0": "its width 3 does not divide by four", "9": "its width 10 does not divide by four"}
    assert converted[3].bias is None
    assert not any(module.training for module in converted.modules())
    assert {p.dtype for p in converted.parameters()} == {torch.float64}
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for name in ("3", "4", "7"):  # a quarter of the weights
        assert 4 * converted[int(name)].weight.numel() == network[int(name)].weight.numel()


def test_recurrent_layers_and_nested_ones():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = nn.ModuleDict({"fast": nn.RNN(8, 12, nonlinearity="relu"), "slow": nn.LSTM(8, 12, 2)})
            self.out = nn.Linear(12, 4)

        def forward(self, x):
            return self.out(self.memory["fast"](x)[0] + self.memory["slow"](x)[0])

    network = Reader()
    converted, names, kept = to_quaternion(network, side="right")
    assert names == ("memory.fast", "memory.slow", "out")
    assert not kept
    assert isinstance(converted.memory["fast"], QRNN)
    assert converted.memory["fast"].nonlinearity == "relu"
    assert isinstance(converted.memory["slow"], QLSTM)
    assert {layer.side for layer in (converted.out, *converted.memory["slow"].inputs)} == {"right"}
    x = torch.randn(5, 2, 8)
    assert converted(x).shape == network(x).shape


def test_a_layer_in_two_places_stays_one_layer():
    shared = nn.Linear(8, 8)
    converted = to_quaternion(nn.Sequential(shared, nn.ReLU(), shared)).network
    assert converted[0] is converted[2]
    assert isinstance(converted[0], QuaternionLinear)


def test_frozen_layers_stay_frozen_and_a_single_layer_is_converted():
    network = nn.Linear(8, 8).requires_grad_(False)
    converted = to_quaternion(network).network
    assert isinstance(converted, QuaternionLinear)
    assert not any(p.requires_grad for p in converted.parameters())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Embedding(4, 8), "Embedding has no quaternion form"),
        (nn.GRU(8, 8), "GRU has no quaternion form"),
        (nn.LSTMCell(8, 8), "LSTMCell has no quaternion form"),
        (nn.GroupNorm(2, 8), "GroupNorm has no quaternion form"),
        (nn.PReLU(8), "PReLU has no quaternion form"),
        (nn.LSTM(8, 8, proj_size=4), "projects its states"),
        (nn.LayerNorm((8, 8)), "several dimensions"),
        (nn.LayerNorm(8, bias=False), "has no bias"),
        (nn.BatchNorm1d(8, momentum=None), "cumulative average"),
        (nn.MultiheadAttention(8, 2), "reads its weights by itself"),
        (nn.BatchNorm1d(8, track_running_stats=False), "no running statistics"),
        (nn.Conv2d(8, 8, 3, groups=8), "groups do not divide"),
        (nn.Conv2d(8, 8, 2, padding="same"), "padding must be"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), "no quaternion form"),
        (nn.TransformerEncoderLayer(8, 2), "reads its weights by itself"),
    ],
)
def test_what_stays_real_is_told_with_the_reason(layer, reason):
    network = nn.ModuleDict({"first": nn.Linear(8, 8), "second": layer})
    _, converted, kept = to_quaternion(network)
    assert converted == ("first",)
    assert kept
    assert all(name.startswith("second") and reason in text for name, text in kept.items())


def test_tied_hooked_and_skipped_layers_stay_real():
    network = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("a", "b", "c", "d", "e")})
    network["b"].weight = network["a"].weight
    network["c"].register_forward_hook(lambda *_: None)
    _, converted, kept = to_quaternion(network, skip=["d"])
    assert converted == ("e",)
    assert {name: text.split()[1] for name, text in kept.items()} == {
        "a": "shares",
        "b": "shares",
        "c": "has",
        "d": "is",
    }


HOOKS = {
    "forward": lambda layer: layer.register_forward_hook(lambda *_: None),
    "before forward": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "backward": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "before backward": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "state": lambda layer: layer.register_state_dict_post_hook(lambda *_: None),
    "loading": lambda layer: layer.register_load_state_dict_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS.keys())
def test_a_layer_with_a_hook_of_any_kind_stays_real(register):
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    register(network[1])
    made, converted, kept = to_quaternion(network)
    assert converted == ("0",)
    assert kept == {"1": "it has hooks, which would be lost"}
    assert type(made[1]) is nn.Linear


def test_layers_without_parameters_stay_as_they_are():
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False), nn.LayerNorm(8, elementwise_affine=False))
    made, converted, kept = to_quaternion(network)
    assert converted == ("0",)
    assert not kept
    assert [type(layer) for layer in made[1:]] == [nn.BatchNorm1d, nn.LayerNorm]


def test_nothing_to_convert_is_refused_with_the_reasons():
    with pytest.raises(UnsupportedNetworkError, match=r"0: its width 3 .*; 2: its width 10"):
        to_quaternion(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 10)))
    with pytest.raises(UnsupportedNetworkError, match="none has parameters"):
        to_quaternion(nn.ReLU())
    with pytest.raises(UserError, match=r"skip names no layer of the network: \['1'\]"):
        to_quaternion(nn.Sequential(nn.Linear(8, 8)), skip=["1"])


def test_each_parameter_stays_frozen_by_itself():
    linear, recurrent = nn.Linear(8, 4), nn.LSTM(8, 4, num_layers=2, bidirectional=True)
    for parameter in (
        linear.bias,
        recurrent.weight_hh_l0,
        recurrent.weight_ih_l1_reverse,
        recurrent.bias_ih_l1,
        recurrent.bias_hh_l1,
        recurrent.bias_hh_l0,  # one of the two in whose place the bias stands
    ):
        parameter.requires_grad_(False)
    network = to_quaternion(nn.ModuleList([linear, recurrent])).network
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"0.bias", "1.recurrent.0.weight", "1.inputs.3.weight", "1.inputs.2.bias"}

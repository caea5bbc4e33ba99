"""The chip in the loop: the rule is that of the module itself, and the device follows its parameters."""

import copy

import pytest
import torch
from small_chips import Counting, batches, chip_rule, flat, network, train
from torch import nn
from torch.nn import functional as F

from beyondprop.devices import DeviceServer, ModuleDevice, RemoteDevice, SimulatedChip
from beyondprop.rules.perturbation.chip import ChipMGD
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    "options", [{}, {"code": "walsh"}, {"code": "sequential", "tau_theta": 16}, {"code": "sinusoidal", "clamp": 0.01}]
)
def test_it_is_the_rule_of_the_module_itself(options, optimizer):
    """To the bit: in this process, and through a socket."""
    torch.manual_seed(3)
    direct = MultiplexedGradientDescent(network(), tau_x=8, at_once=1, **options)
    expected = train(direct, optimizer=optimizer)
    assert not torch.equal(expected, flat(network()))
    with DeviceServer(ModuleDevice(network(), at_once=1)).running() as server:
        for device in (ModuleDevice(network(), at_once=1), RemoteDevice(server.address)):
            initial = flat(network())
            torch.manual_seed(3)
            rule = chip_rule(device, initial=initial, **options)
            assert torch.equal(train(rule, optimizer=optimizer), expected)
            x, _ = batches(1)[0]
            assert torch.equal(rule(x), direct(x))


def test_a_learned_chip_lowers_its_cost():
    """By the loss, computed by hand, of what the rule says of the batch; Adam, a hundred updates."""
    x, y = batches(1)[0]
    rule = ChipMGD(ModuleDevice(network()), tau_x=64, spread=0.3)
    assert rule.network.theta.detach().abs().max() <= 0.3
    assert rule.network.theta.detach().std() == pytest.approx(0.3 / 3**0.5, rel=0.3)
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    costs = []
    for _ in range(100):
        optimizer.zero_grad()
        costs.append(rule.backward(x, y))
        optimizer.step()
    assert F.cross_entropy(rule(x), y) < 0.5 * costs[0]


def test_the_device_follows_the_parameters():
    """After a step, after a checkpoint is restored, and after somebody else has written to it."""
    device = ModuleDevice(network())
    rule = chip_rule(device)
    x, y = batches(1)[0]
    saved = copy.deepcopy(rule.state_dict())
    train(rule)
    rule(x)
    assert torch.equal(device.parameters, rule.network.theta)
    rule.load_state_dict(saved)
    with torch.inference_mode():
        rule(x)
    assert torch.equal(device.parameters, flat(network()))
    with torch.no_grad():
        rule.network.theta += 1
    rule.backward(x, y)
    assert torch.equal(device.parameters, flat(network()) + 1)


def test_parameters_are_written_once_for_each_update():
    device = Counting()
    train(chip_rule(device, tau_theta=24))
    assert device.counts == {"write": 2, "present": 6, "read": 6, "predict": 0}


def test_low_precision_still_learns_and_noise_is_averaged():
    """Stored with four bits, read with noise: what is measured is at the parameters as the chip has them."""
    x, y = batches(1)[0]
    chip = SimulatedChip(ModuleDevice(network()), bits=4, span=2.0, noise=1e-2)
    rule = ChipMGD(chip, initial=flat(network()), tau_x=512, code="walsh", norm=0.5)
    rule.backward(x, y)
    rounded = network()
    with torch.no_grad():
        nn.utils.vector_to_parameters(chip.stored(flat(rounded)), rounded.parameters())
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(F.cross_entropy(rounded(x), y), rounded.parameters())]
    )
    torch.testing.assert_close(rule.network.theta.grad, expected, atol=0.05, rtol=0.1)

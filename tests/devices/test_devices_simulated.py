"""Devices in this process: a module's own costs, and what a simulated chip does to them."""

import math
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.devices import HARDWARE, Device, Hardware, ModuleDevice, SimulatedChip, with_defects
from beyondprop.devices.wall_clock import duration
from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.layers.defective_activation import DefectiveActivation


class Plain:
    """A device whose cost is the sum of its perturbed parameters: what a chip adds can be read off."""

    size = 3

    def __init__(self):
        self.parameters = torch.zeros(3).double()

    def write(self, parameters):
        self.parameters = parameters

    def present(self, x, y):
        pass

    def read(self, perturbations):
        return (self.parameters + perturbations).sum(dim=1)

    def predict(self, x):
        return self.parameters.expand(len(x), 3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)).double()


def batch():
    torch.manual_seed(1)
    return torch.randn(6, 3).double(), torch.arange(6) % 2


def cost_by_hand(module, flat, x, y):
    """The loss of a network whose parameters are those numbers, written out."""
    w1, b1, w2, b2 = flat[:12].view(4, 3), flat[12:16], flat[16:24].view(2, 4), flat[24:]
    scores = torch.sigmoid(x @ w1.T + b1) @ w2.T + b2
    return -(scores.log_softmax(dim=1)[torch.arange(len(x)), y]).mean()


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_a_module_gives_its_loss_at_perturbed_parameters(at_once):
    x, y = batch()
    module = network()
    device = ModuleDevice(module, at_once=at_once)
    assert isinstance(device, Device)
    assert device.size == 26
    torch.manual_seed(2)
    parameters, perturbations = torch.randn(26).double(), torch.randn(5, 26).double()
    device.write(parameters)
    device.present(x, y)
    expected = torch.stack([cost_by_hand(module, parameters + d, x, y) for d in perturbations])
    torch.testing.assert_close(device.read(perturbations), expected)
    torch.testing.assert_close(device.read(perturbations), expected)  # reading leaves the parameters as written
    assert torch.equal(device.parameters, parameters)


def test_a_module_is_copied_and_has_no_dropout():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    module[3].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    device = ModuleDevice(module)
    assert device.size == 12 + 4 + 8 + 8
    device.write(device.parameters + 1)
    x, y = batch()
    device.present(x.float(), y)
    nothing = torch.zeros(1, device.size)
    assert torch.equal(device.read(nothing), device.read(nothing))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(device.network[3].bias, module[3].bias)
    torch.testing.assert_close(F.cross_entropy(device.predict(x.float()), y), device.read(nothing)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda device: device.write(torch.zeros(25)), "26 parameters"),
        (lambda device: device.read(torch.zeros(1, 26)), "nothing is presented"),
        (lambda device: (device.present(*batch()), device.read(torch.zeros(26))), r"\(K, 26\)"),
        (lambda device: ModuleDevice(nn.ReLU()), "trainable"),
        (lambda device: ModuleDevice(network(), at_once=0), "at_once"),
    ],
)
def test_what_a_module_cannot_take_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call(ModuleDevice(network()))


def test_what_vmap_cannot_run_is_told_and_runs_one_by_one():
    class Asks(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1 if float(self.weight.sum()) > -1e9 else 2)

    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    for at_once, seen in ((64, pytest.raises(UnsupportedNetworkError, match="at_once=1")), (1, None)):
        device = ModuleDevice(Asks(3, 2), at_once=at_once)
        device.present(x, y)
        if seen is None:
            assert device.read(torch.zeros(2, 8)).shape == (2,)
        else:
            with seen:
                device.read(torch.zeros(2, 8))


def test_noise_is_added_to_every_cost():
    chip = SimulatedChip(Plain(), noise=0.2, seed=3)
    costs = torch.cat([chip.read(torch.zeros(1000, 3).double()) for _ in range(20)])
    assert costs.mean().abs() < 5 * 0.2 / math.sqrt(20_000)
    assert costs.std() == pytest.approx(0.2, rel=0.03)
    assert costs[:1000].unique().numel() == 1000


def test_parameters_wander_like_a_random_walk_whatever_is_written():
    """Of three parameters, by drift each: the variance of their sum after n reads is 3 n drift²."""
    ends = []
    for seed in range(400):
        chip = SimulatedChip(Plain(), drift=0.1, seed=seed)
        chip.write(torch.ones(3).double())
        costs = chip.read(torch.zeros(4, 3).double())
        chip.write(torch.zeros(3).double())
        ends.append(torch.cat([costs - 3, chip.read(torch.zeros(5, 3).double())]))
    variance = torch.stack(ends).square().mean(dim=0)
    expected = 3 * 0.01 * torch.arange(1, 10).double()
    torch.testing.assert_close(variance, expected, rtol=0.35, atol=0)
    shown = chip.predict(torch.zeros(2, 1))
    torch.testing.assert_close(shown.sum(dim=1), ends[-1][-1].expand(2), rtol=1e-5, atol=1e-6)
    assert not chip.device.parameters.any()


def test_a_seed_decides_noise_and_drift_and_leaves_torchs_generator_alone():
    state = torch.get_rng_state()
    read = [SimulatedChip(Plain(), noise=0.1, drift=0.1, seed=s).read(torch.zeros(3, 3).double()) for s in (1, 1, 2)]
    assert torch.equal(read[0], read[1])
    assert not torch.equal(read[0], read[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_parameters_are_stored_with_so_many_levels(bits):
    chip = SimulatedChip(Plain(), bits=bits, span=2.0)
    given = torch.linspace(-3, 3, 5001).double()
    stored = chip.stored(given)
    step = 4 / (2**bits - 1)
    assert stored.unique().numel() == 2**bits
    assert (stored.min(), stored.max()) == pytest.approx((-2, 2))
    assert (stored - given.clamp(-2, 2)).abs().max() <= step / 2 + 1e-9
    chip.write(torch.tensor([0.1, 0.2, 5.0]).double())
    fine = torch.tensor([[0.0, 0.0, 0.0], [1e-4, 0.0, 0.0]]).double()  # far below a level
    costs = chip.read(fine)
    assert costs[0] == chip.stored(torch.tensor([0.1, 0.2, 5.0]).double()).sum()
    assert costs[1] - costs[0] == pytest.approx(1e-4)


def test_latency_is_waited():
    chip = SimulatedChip(Plain(), latency=0.02)
    start = time.perf_counter()
    chip.write(torch.zeros(3))
    chip.present(torch.zeros(1), torch.zeros(1))
    chip.read(torch.zeros(1, 3))
    assert time.perf_counter() - start >= 0.06


def test_a_state_that_is_restored_gives_the_same_reads():
    chip = SimulatedChip(Plain(), noise=0.1, drift=0.1)
    nothing = torch.zeros(4, 3).double()
    chip.read(nothing)
    state = {name: value.clone() for name, value in chip.state().items()}
    expected = [chip.read(nothing) for _ in range(2)]
    other = SimulatedChip(Plain(), noise=0.1, drift=0.1, seed=5)
    other.restore(state)
    assert torch.equal(torch.stack([other.read(nothing) for _ in range(2)]), torch.stack(expected))


def test_a_chip_shows_outputs_where_what_computes_them_does():
    class Mute(Plain):
        predict = None

    assert SimulatedChip(Mute()).predict is None
    with pytest.raises(UserError, match="nothing is written"):
        SimulatedChip(Plain()).predict(torch.zeros(1))


@pytest.mark.parametrize("value", [-1, 99.5, math.nan])
@pytest.mark.parametrize("name", ["noise", "drift", "latency", "span", "bits"])
def test_flaws_out_of_range_are_refused(name, value):
    if value == 99.5 and name != "bits":
        value = math.inf
    with pytest.raises(UserError, match=f"{name} must be"):
        SimulatedChip(Plain(), **{name: value})


def test_no_more_bits_are_stored_than_a_number_has():
    with pytest.raises(UserError, match=r"bits must lie in 0\.\.24, got 25"):
        SimulatedChip(Plain(), bits=25)


@pytest.mark.parametrize("at_once", [0, 1.5, math.nan])
def test_evaluations_at_once_are_a_whole_number(at_once):
    with pytest.raises(UserError, match="at_once must be a whole number of at least 1"):
        ModuleDevice(network(), at_once=at_once)


def test_defects_are_the_papers_curves():
    """L / (1 + exp(-k (a - x0))) + y0, neuron by neuron."""
    curve = DefectiveActivation(nn.Sigmoid(), torch.Size([5]), 0.4, torch.Generator().manual_seed(1))
    a = torch.randn(7, 5)
    expected = torch.empty(7, 5)
    for row in range(7):
        for j in range(5):
            k, height, x0, y0 = (float(getattr(curve, name)[j]) for name in ("k", "L", "x0", "y0"))
            expected[row, j] = height / (1 + math.exp(-k * (float(a[row, j]) - x0))) + y0
    torch.testing.assert_close(curve(a), expected)


def test_defects_have_the_papers_distribution_and_are_a_chips_own():
    chips = [
        with_defects(nn.Sequential(nn.Linear(3, 4000), nn.Tanh()), torch.zeros(1, 3), 0.3, seed=s) for s in (0, 0, 1)
    ]
    assert torch.equal(chips[0][1].k, chips[1][1].k)
    assert not torch.equal(chips[0][1].k, chips[2][1].k)
    for name, mean in (("k", 1), ("L", 1), ("x0", 0), ("y0", 0)):
        drawn = getattr(chips[0][1], name)
        assert drawn.shape == (4000,)
        assert drawn.mean() == pytest.approx(mean, abs=5 * 0.3 / 4000**0.5)
        assert drawn.std() == pytest.approx(0.3, rel=0.06)


def test_every_layer_has_defects_and_the_network_itself_none():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Sequential(nn.Linear(8, 5), nn.Sigmoid()))
    state = torch.get_rng_state()
    made = with_defects(module, torch.zeros(1, 1, 4, 4), 0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert made[1].k.shape == (2, 2, 2)
    assert made[3][1].k.shape == (5,)
    assert not torch.equal(made[1].k.flatten()[:5], made[3][1].k)
    assert isinstance(module[1], nn.ReLU)
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in module.named_parameters()]
    x = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(with_defects(module, x, 0.0)(x), module(x))


def test_activations_that_cannot_differ_are_refused():
    shared = nn.Tanh()
    with pytest.raises(UnsupportedNetworkError, match="twice"):
        with_defects(nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared), torch.zeros(1, 3), 0.1)
    with pytest.raises(UnsupportedNetworkError, match="no activation"):
        with_defects(nn.Linear(3, 3), torch.zeros(1, 3), 0.1)
    for deviation in (-0.1, math.nan):
        with pytest.raises(UserError, match="deviation must be a number of at least 0"):
            with_defects(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.zeros(1, 3), deviation)


def test_wall_clock_is_the_papers():
    """2e7 steps, whatever is learned in them: 5.6 h, 200 ms, 4 ms."""
    times = {hardware.name: hardware.seconds(20_000_000) for hardware in HARDWARE}
    assert times["HW1"] / 3600 == pytest.approx(5.6, abs=0.05)
    assert times["HW2"] == pytest.approx(0.2)
    assert times["HW3"] == pytest.approx(0.004)
    assert [hardware.seconds(20_000_000, tau_x=100, tau_theta=1000) for hardware in HARDWARE] == list(times.values())


def test_wall_clock_counts_slow_inputs_and_writes():
    """A thousand steps of 1 ms, 100 inputs of 10 ms, 20 writes of 1 s."""
    mine = Hardware("mine", "a chip with a slow memory", 1e-3, input_time=1e-2, write_time=1.0)
    assert mine.seconds(1000, tau_x=10, tau_theta=50) == pytest.approx(1 + 1 + 20)


def test_durations_have_the_unit_that_suits_them():
    assert [duration(s) for s in (1e-3, 5e-8, 1, 59, 86400)] == ["1 ms", "50 ns", "1 s", "59 s", "24 h"]

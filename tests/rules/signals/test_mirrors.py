"""Feedback networks of units with pools and dropout: their maps are the units' adjoints, and end in the right range."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.rules.signals.backprop import Backprop
from beyondprop.rules.signals.chain import Chain
from beyondprop.rules.signals.direct_target_propagation import DDTP
from beyondprop.rules.signals.l_drl import LDRL
from beyondprop.rules.signals.mirrors import Mirror, closing_activation
from beyondprop.rules.signals.target_propagation import DTP, DTPDR


def transposed(mirror, layer):
    """Give a mirror the transpose of its layer; a transposed convolution's weight has the convolution's own order."""
    with torch.no_grad():
        mirror.layer.weight.copy_(layer.weight.T if isinstance(layer, nn.Linear) else layer.weight)
        mirror.layer.bias.zero_()


@pytest.mark.parametrize(
    ("parts", "scale"),
    [
        ([nn.MaxPool2d(2)], 1),
        ([nn.MaxPool2d(3, stride=2, padding=1)], 1),  # a maximum may be that of several windows
        ([nn.MaxPool2d(3, stride=1), nn.MaxPool2d(2)], 1),
        ([nn.Dropout(0.5)], 1),
        ([nn.Dropout2d(0.5), nn.MaxPool2d(2), nn.Dropout(0.3)], 1),
        ([nn.AvgPool2d(2)], 4),
        ([nn.AvgPool2d(3)], 64 / 4),  # the last two rows and columns are in no window
        ([nn.AvgPool2d(3, stride=2, padding=1)], 4),
        ([nn.AdaptiveAvgPool2d(3)], 64 / 9),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_mirror_with_the_transposed_layer_is_the_adjoint(parts, scale, times):
    """g(y) = scale J^T y at the batch's own maxima and masks, for one batch or several; a mean keeps its size."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), *parts).double()
    x = torch.randn(3, 2, 8, 8).double()
    chain = Chain(network, x)
    clean = chain.run(x)
    mirror = Mirror(chain, 1)
    transposed(mirror, network[1])
    below = clean.value(0).requires_grad_()
    out = clean.again(1, below)
    y = torch.randn(times, *out.shape).double()
    found = mirror(y.flatten(0, 1), clean.kept[1]).unflatten(0, (times, 3))
    for way, back in zip(y, found, strict=True):
        (wanted,) = torch.autograd.grad(out, below, way, retain_graph=True)
        torch.testing.assert_close(back, scale * wanted)


def test_mean_pools_on_the_way_pass_gradients_on():
    """DTPDR differentiates through mirrors above: those of mean-pools too."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)).double()
    chain = Chain(network, torch.zeros(1, 2, 8, 8).double())
    clean = chain.run(torch.randn(2, 2, 8, 8).double())
    mirror = Mirror(chain, 1)
    y = torch.randn(2, 4, 2, 2).double().requires_grad_()
    torch.autograd.gradcheck(lambda y: mirror(y, clean.kept[1]), y)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2)])
def test_transposed_feedback_carries_back_propagations_gradients(pool):
    """Through overlapping pools and dropout, of units whose slope is that of the output's sign."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.LeakyReLU(0.3), nn.Dropout(0.4)),
        *(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.3), pool, nn.Dropout(0.4)),
        *(nn.Flatten(), nn.Linear(64, 6), nn.LeakyReLU(0.3), nn.Dropout(0.4), nn.Linear(6, 3)),
    ).double()
    x, y = torch.randn(5, 2, 8, 8).double(), torch.arange(5) % 3
    rule = LDRL(network, x, target_step=1e-6)
    for unit, mirror in zip(rule.chain.units[1:], rule.feedback, strict=True):
        transposed(mirror, unit.layer)
    found = []
    for each in (rule, Backprop(network)):
        network.zero_grad()
        torch.manual_seed(7)  # of the masks
        each.backward(x, y)
        found.append([p.grad for p in network.parameters()])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("behind", "kind"),
    [
        ([nn.ReLU()], nn.ReLU),
        ([nn.Tanh(), nn.Dropout(0.1)], nn.Tanh),
        ([nn.ReLU(), nn.MaxPool1d(2), nn.Flatten()], nn.ReLU),
        ([nn.ReLU(), nn.BatchNorm1d(3)], nn.Identity),
        ([nn.BatchNorm1d(3), nn.ReLU()], nn.ReLU),
        ([], nn.Identity),
    ],
)
def test_what_closes_a_unit_gives_its_range(behind, kind):
    """A norm behind the activation gives numbers of either sign, which the activation could not reach."""
    network = nn.Sequential(nn.Conv1d(2, 3, 1), *behind, nn.Flatten(), nn.LazyLinear(3))
    network(torch.randn(4, 2, 6))
    chain = Chain(network, torch.randn(4, 2, 6))
    assert type(closing_activation(chain.units[0])) is kind
    assert type(Mirror(chain, 1).activation) is kind


@pytest.mark.parametrize(
    "make",
    [
        lambda network, x: DDTP(network, x, noise=0.003),
        lambda network, x: DDTP(network, x, feedback="rhl", noise=0.003),
        lambda network, x: DTPDR(network, x, noise=0.003),
        lambda network, x: DTP(network, x, noise=0.003),
    ],
)
def test_autocast_leaves_small_noise_its_digits(make):
    """What a perturbation has moved is a difference as small as bfloat16's rounding."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
    x, y = torch.randn(64, 8), torch.arange(64) % 3
    rule, found = make(network, x), []
    for enabled in (False, True):
        rule.zero_grad()
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rule.backward(x, y, rule.phases[0])
        found.append(torch.cat([p.grad.flatten() for p in rule.feedback.parameters() if p.grad is not None]))
    assert F.cosine_similarity(*found, dim=0) > 0.9999


def test_statistics_stay_where_feedback_learns():
    """Of L-DRL's phases only the network's own moves its norms."""
    network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(9, 8), torch.arange(9) % 3
    rule = LDRL(network, x, feedback_steps=4)
    for phase in rule.phases:
        rule.backward(x, y, phase)
    assert network[1].num_batches_tracked == 1


def test_a_batch_is_evaluated_once_for_all_phases_of_its_feedback():
    """Anew where the batch, a weight or a mode is another."""
    network = nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(9, 8), torch.arange(9) % 3
    rule = LDRL(network, x, feedback_steps=3)
    calls = []
    network[0].register_forward_hook(lambda *_: calls.append(1))

    def forwards(*changes):
        for change in (lambda: None, *changes):
            change()
            rule.backward(x, y, "feedback 1")
        found = len(calls)
        calls.clear()
        return found

    optimizer = torch.optim.SGD(rule.parameters(), 0.1)
    assert forwards(optimizer.step) == 1  # which moves the feedback alone
    assert forwards(network.eval, network.train) == 2
    assert forwards(lambda: x.mul_(2), lambda: network[5].bias.detach().add_(1)) == 2
    rule.backward(x, y)
    assert rule._evaluated is None

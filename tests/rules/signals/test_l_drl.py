"""Layer-local difference reconstruction: its loss by the letter, its minimum in closed form, its transposes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rules.signals import l_drl
from beyondprop.rules.signals.l_drl import LDRL


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ELU(), nn.Linear(7, 6), nn.ELU(), nn.Linear(6, 3)).double()


def pooled(activation=nn.ELU):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), activation(), nn.MaxPool2d(3, stride=2, padding=1)),
        *(nn.Conv2d(3, 4, 3, padding=1, stride=2), activation(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4, 5), activation(), nn.Linear(5, 3)),
    ).double()


def batch(count, *size):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *size, generator=generator).double(), torch.randint(3, (count,), generator=generator)


@pytest.fixture
def noise(monkeypatch):
    """Every draw of noise, in its order; the same ones again when it is cleared."""
    drawn = []

    def draw(like):
        generator = torch.Generator().manual_seed(len(drawn))
        drawn.append(torch.randn(like.shape, generator=generator, dtype=like.dtype))
        return drawn[-1].clone()

    monkeypatch.setattr(l_drl.torch, "randn_like", draw)
    return drawn


def step(rule, optimizer, x, y):
    for phase in rule.phases:
        optimizer.zero_grad()
        loss = rule.backward(x, y, phase)
        optimizer.step()
    return loss


def test_loss_is_the_papers_with_the_maxima_of_the_batch_itself(noise):
    """Every unit written out: convolutions, ELUs and pools of the forward pass, and their way back."""
    network = pooled()
    x, y = batch(3, 2, 8, 8)
    rule = LDRL(network, x, feedback_steps=(1, 1, 1), noise=(0.5, 0.3, 0.2))
    loss = rule.backward(x, y, "feedback 1")
    found = [p.grad.clone() for p in rule.feedback.parameters()]
    c1, _, _, c2, _, _, _, l1, _, l2 = network
    g2, g3, g4 = (copy.deepcopy(mirror.layer) for mirror in rule.feedback)
    h1 = F.max_pool2d(F.elu(c1(x)), 3, 2, 1).detach()
    maxima = F.max_pool2d(F.elu(c2(h1)), 2, return_indices=True)[1]

    def second(h):
        return F.max_pool2d(F.elu(c2(h)), 2).flatten(1)

    def second_back(h):
        return g2(F.elu(F.max_unpool2d(h.view(3, 4, 1, 1), maxima, 2)), output_size=[4, 4])

    def third(h):
        return F.elu(l1(h))

    def third_back(h):
        return g3(F.elu(h))

    h2 = second(h1).detach()
    h3 = third(h2).detach()
    h4 = l2(h3).detach()
    total = 0
    for number, (f, g, below, above, sigma) in enumerate(
        ((second, second_back, h1, h2, 0.5), (third, third_back, h2, h3, 0.3), (l2, g4, h3, h4, 0.2))
    ):
        e, n = (sigma * noise[2 * number + k].view_as(h) for k, h in ((0, below), (1, above)))
        ahead = f(below + e).detach()
        total = total - 2 * (e * (g(ahead) - g(above))).sum() + (g(above + n) - g(above)).square().sum()
    expected = torch.autograd.grad(total / 3, [p for g in (g2, g3, g4) for p in g.parameters()])
    assert len(noise) == 6
    torch.testing.assert_close(loss, total.detach() / 3)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_gradients_are_those_of_finite_differences(noise):
    network = perceptron()
    x, y = batch(4, 5)
    rule = LDRL(network, x, noise=0.3)
    rule.backward(x, y, "feedback 1")

    def total():
        noise.clear()
        clean = rule.chain.run(x, training=False)
        return float(rule.unit_loss(clean, 1) + rule.unit_loss(clean, 2))

    for mirror in rule.feedback:
        weight = mirror.layer.weight
        for place in ((0, 0), (2, 1)):
            before = weight.grad[place].item()
            ends = []
            for move in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[place] += move
                    ends.append(total())
                    weight[place] -= move
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(before, rel=1e-6)


def test_of_a_linear_unit_the_mean_gradient_is_the_way_to_the_transpose():
    """E[loss] = sigma^2 (|Q|^2 - 2 tr(Q W)), whose gradient is 2 sigma^2 (Q - W^T): within its confidence."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)).double()
    x = torch.randn(200_000, 2).double()
    rule = LDRL(network, x[:1], noise=0.5)
    rule.backward(x, torch.zeros(len(x), dtype=torch.long), "feedback 1")
    q, w = rule.feedback[0].layer.weight, network[1].weight
    torch.testing.assert_close(q.grad, 2 * 0.25 * (q - w.T).detach(), atol=0.02, rtol=0)
    assert rule.feedback[0].layer.bias.grad.abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_feedback_of_linear_units_becomes_the_transpose(kind):
    torch.manual_seed(0)
    if kind == "linear":
        network, x = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3)), torch.randn(64, 3)
    else:
        network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 3))
        x = torch.randn(64, 1, 4, 4)
    y = torch.randint(3, (64,))
    rule = LDRL(network, x, noise=0.2, feedback_steps=1)
    mirror, w = rule.feedback[0].layer.weight, network[1].weight
    expected = w.T if kind == "linear" else w  # a transposed convolution's weight has the convolution's own order
    rate = 2.0 if kind == "linear" else 0.1
    optimizer = torch.optim.SGD(rule.parameter_groups()[1:], lr=rate)
    distances = []
    for number in range(150):
        optimizer.param_groups[0]["lr"] = rate / (1 + number / 20)
        optimizer.zero_grad()
        rule.backward(x, y, "feedback 1")
        optimizer.step()
        distances.append(((mirror - expected).norm() / expected.norm()).item())
    assert distances[0] > 0.5
    assert distances[-1] < 0.1


def angle_of_jacobians(rule, x):
    """Mean angle between the Jacobian of each unit's feedback at h_i and the transpose of its unit's, over samples."""
    angles = []
    clean = rule.chain.run(x, training=False)
    for index in range(1, len(clean)):
        for n in range(len(x)):
            one = rule.chain.run(x[n : n + 1], training=False)
            below, value = one.value(index - 1), one.value(index)
            ahead = torch.autograd.functional.jacobian(lambda h, i=index, o=one: o.again(i, h), below)
            back = torch.autograd.functional.jacobian(lambda h, i=index, o=one: rule.back(o, i, h), value)
            ahead = ahead.reshape(value.numel(), below.numel())
            back = back.reshape(below.numel(), value.numel())
            cosine = (ahead.T * back).sum() / ahead.norm() / back.norm()
            angles.append(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))
    return float(torch.stack(angles).mean())


def test_angle_between_jacobian_and_transpose_falls_with_the_steps_of_a_batch():
    network = pooled()
    x, y = batch(32, 2, 8, 8)
    rule = LDRL(network, x, noise=0.1)
    optimizer = torch.optim.Adam(rule.parameter_groups()[1:], lr=1e-2)
    angles = [angle_of_jacobians(rule, x[:3])]
    for _ in range(3):
        for _ in range(100):
            optimizer.zero_grad()
            rule.backward(x, y, "feedback 1")
            optimizer.step()
        angles.append(angle_of_jacobians(rule, x[:3]))
    assert 75 < angles[0] < 105
    assert angles[0] > angles[1] > angles[2]
    assert angles[-1] < 35


def test_with_transposed_feedback_a_small_target_step_gives_back_propagation():
    """Leaky ReLUs have at a value the slope that they had before it: then both Jacobians are each other's transpose."""
    network = pooled(lambda: nn.LeakyReLU(0.3))
    x, y = batch(6, 2, 8, 8)
    rule = LDRL(network, x, target_step=1e-5)
    with torch.no_grad():
        for mirror, layer in zip(rule.feedback, (network[3], network[7], network[9]), strict=True):
            weight = layer.weight
            mirror.layer.weight.copy_(weight if weight.ndim == 4 else weight.T)
    rule.backward(x, y)
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    F.cross_entropy(network(x), y).backward()
    for gradient, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-9)


def test_the_scale_is_that_of_back_propagation_for_any_target_step():
    """The last unit has the true derivative, whatever beta; targets go down by differences of the feedback."""
    network = perceptron()
    x, y = batch(4, 5)
    rule = LDRL(network, x, target_step=0.7)
    rule.backward(x, y)
    error = (torch.softmax(network(x), 1) - F.one_hot(y, 3)).detach()
    h1 = network[:2](x).detach()
    h2 = network[2:4](h1).detach()
    h3 = network[4](h2).detach()
    g2, g3 = (mirror.layer for mirror in rule.feedback)
    t2 = h2 + g3(h3 - 0.7 * error) - g3(h3)
    t1 = h1 + g2(F.elu(t2)) - g2(F.elu(h2))
    torch.testing.assert_close(network[4].weight.grad, error.T @ h2 / 4)
    expected = ((h1 - t1) * torch.where(h1 > 0, 1, h1 + 1)).sum(dim=0).detach() / (0.7 * 4)
    torch.testing.assert_close(network[0].bias.grad, expected)


def test_each_phase_trains_its_own_and_nothing_else():
    network = perceptron()
    x, y = batch(4, 5)
    rule = LDRL(network, x, feedback_steps=(1, 3))
    assert rule.phases == ("feedback 1", "feedback 2", "feedback 3", None)
    learned = {}
    for phase in rule.phases:
        rule.zero_grad()
        rule.backward(x, y, phase)
        learned[phase] = {
            name.split(".")[0] + name.split(".")[1] for name, p in rule.named_parameters() if p.grad is not None
        }
    assert learned["feedback 1"] == {"feedback0", "feedback1"}
    assert learned["feedback 2"] == learned["feedback 3"] == {"feedback1"}
    assert learned[None] == {"network0", "network2", "network4"}


def test_momentum_moves_no_feedback_whose_steps_are_used_up():
    network = perceptron()
    x, y = batch(4, 5)
    rule = LDRL(network, x, feedback_steps=(1, 3))
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.1, momentum=0.9)
    step(rule, optimizer, x, y)
    first = rule.feedback[0].layer.weight
    for phase in rule.phases:
        before = first.clone()
        optimizer.zero_grad()
        rule.backward(x, y, phase)
        optimizer.step()
        assert torch.equal(first, before) == (phase != "feedback 1")


def test_groups_have_rates_of_their_own_and_no_weight_decay():
    rule = LDRL(perceptron(), batch(4, 5)[0], feedback_rate=(0.1, 0.2))
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=0.5, weight_decay=1e-3)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ("network", 0.5, 1e-3),
        ("feedback of 2", 0.1, 0.0),
        ("feedback of 4", 0.2, 0.0),
    ]


def test_learns_a_small_task_from_images():
    torch.manual_seed(0)
    network = pooled()
    x = torch.randn(96, 2, 8, 8).double()
    y = (x[:, 0, :4].mean(dim=(1, 2)) > 0).long() + (x[:, 1, 4:].mean(dim=(1, 2)) > 0).long()
    rule = LDRL(network, x, feedback_steps=4, noise=0.1)
    groups = rule.parameter_groups()
    optimizer = torch.optim.Adam(groups, lr=1e-2)
    losses = [float(step(rule, optimizer, x, y)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_one_layer_needs_no_feedback():
    rule = LDRL(nn.Linear(5, 3), torch.zeros(2, 5))
    assert rule.phases == (None,)
    rule.backward(torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))


def test_frozen_feedback_is_left_alone():
    network = perceptron()
    x, y = batch(4, 5)
    rule = LDRL(network, x)
    rule.feedback.requires_grad_(False)
    rule.backward(x, y, "feedback 1")
    assert all(p.grad is None for p in rule.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"noise": (0.1, 0.2, 0.3)}, "noise has 3 numbers for 2"),
        ({"noise": 0.0}, "noise must be a number above 0"),
        ({"feedback_steps": (1, 0)}, "feedback_steps must be a whole number of at least 1"),
        ({"feedback_steps": 1.5}, "feedback_steps must be a whole number"),
        ({"feedback_rate": -0.1}, "feedback_rate must be a number above 0"),
        ({"feedback_rate": (0.1,)}, "feedback_rate has 1 numbers"),
        ({"target_step": 0.0}, "target_step"),
    ],
)
def test_numbers_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        LDRL(perceptron(), batch(2, 5)[0], **options)


def test_a_layer_without_a_way_back_is_named():
    network = nn.Sequential(nn.Linear(4, 6), nn.Bilinear(2, 2, 2))
    with pytest.raises(UnsupportedNetworkError, match="1"):
        LDRL(network, torch.zeros(1, 4))

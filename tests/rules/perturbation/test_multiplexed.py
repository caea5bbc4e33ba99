"""Multiplexed gradient descent: finite differences, unbiasedness, equal updates of all codes, and what is carried."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.networks.population import Population
from beyondprop.rules.perturbation.codes import KINDS
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent

CODES = list(KINDS)
MGD = MultiplexedGradientDescent


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def batch(count=6):
    torch.manual_seed(1)
    return torch.randn(count, 3).double(), torch.arange(count) % 2


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def gradient_of(rule):
    return flat(p.grad for p in rule.network.parameters())


def true_gradient(module, x, y):
    return flat(torch.autograd.grad(F.cross_entropy(module(x), y), list(module.parameters())))


class Linear(nn.Module):
    """A cost that is linear in its 26 parameters: codes are exact for it, whatever the norm."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 13).double())

    def forward(self, x):
        return (self.weight * x[0].view(2, 13)).sum()


def linear_rule(code, steps, **options):
    torch.manual_seed(2)
    module, x = Linear(), torch.randn(1, 26).double()
    return MGD(module, lambda value, _: value, code=code, norm=0.5, tau_x=steps, **options), x


def test_sequential_codes_are_forward_differences():
    """Every parameter moved by the norm, one after another, with nothing else."""
    x, y = batch()
    rule = MGD(network(), code="sequential", norm=1e-2, tau_x=26)
    rule.backward(x, y)
    here, expected = F.cross_entropy(rule.network(x), y), []
    for p in rule.network.parameters():
        for place in range(p.numel()):
            with torch.no_grad():
                p.view(-1)[place] += 1e-2
                expected.append((F.cross_entropy(rule.network(x), y) - here) / 1e-2)
                p.view(-1)[place] -= 1e-2
    torch.testing.assert_close(gradient_of(rule), torch.stack(expected))


@pytest.mark.parametrize(("code", "period"), [("sequential", 26), ("walsh", 32)])
def test_orthogonal_codes_give_the_exact_gradient_over_a_period(code, period):
    rule, x = linear_rule(code, period)
    rule.backward(x, x)
    torch.testing.assert_close(gradient_of(rule), x[0])


@pytest.mark.parametrize("code", CODES)
def test_the_expected_update_is_the_gradient_for_every_code(code):
    """Of 26 parameters; five standard errors of the estimate, measured over independent parts."""
    rule, x = linear_rule(code, 400, at_once=400)
    parts = []
    for _ in range(40):
        rule.zero_grad()
        rule.backward(x, x)
        parts.append(gradient_of(rule))
    parts = torch.stack(parts)
    error = parts.std(dim=0) / len(parts) ** 0.5
    assert ((parts.mean(dim=0) - x[0]).abs() < 5 * error + 1e-2).all()


@pytest.mark.parametrize("code", CODES)
def test_bias_vanishes_with_the_norm(code):
    """On a real cost, a full pass of the codes: errors shrink at least in proportion to the norm."""
    x, y = batch()
    errors = []
    for norm in (4e-2, 4e-3):
        torch.manual_seed(4)
        rule = MGD(network(), code=code, norm=norm, tau_x=6400, at_once=1600)
        rule.backward(x, y)
        errors.append((gradient_of(rule) - true_gradient(rule.network, x, y)).norm())
    if code in ("sequential", "walsh"):
        assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.15 * true_gradient(rule.network, x, y).norm()


def test_updates_come_every_tau_theta_steps():
    """Until then no gradient is there, and what was heard is carried, and saved."""
    x, y = batch()
    rule = MGD(network(), code="walsh", tau_x=8, tau_theta=32, norm=1e-3)
    for call in range(3):
        rule.backward(x, y)
        assert all(p.grad is None for p in rule.network.parameters()), call
    twin = MGD(network(), code="walsh", tau_x=8, tau_theta=32, norm=1e-3)
    twin.load_state_dict(rule.state_dict())
    for each in (rule, twin):
        each.backward(x, y)
    assert torch.equal(gradient_of(rule), gradient_of(twin))
    torch.testing.assert_close(gradient_of(rule), true_gradient(rule.network, x, y), rtol=2e-2, atol=2e-3)
    rule.zero_grad()
    rule.backward(x, y)
    assert all(p.grad is None for p in rule.network.parameters())


def test_updates_within_a_presentation_follow_the_papers_steps():
    """Section II, a step at a time: where θ or x has changed C0 is read anew, and G begins at zero after an update."""
    x, y = batch()
    rule = MGD(network(), code="sinusoidal", tau_x=6, tau_theta=2, norm=0.1)
    twin, code = network(), copy.deepcopy(rule.code)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.3)
    assert len(rule.phases) == 3
    for _ in range(2):
        for phase in rule.phases:
            optimizer.zero_grad()
            rule.backward(x, y, phase)
            optimizer.step()

    def cost(theta):
        nn.utils.vector_to_parameters(theta, twin.parameters())
        return F.cross_entropy(twin(x), y)

    with torch.no_grad():
        theta = nn.utils.parameters_to_vector(twin.parameters()).clone()
        G, C0 = torch.zeros_like(theta), None
        for step in range(12):
            if step and step % 2 == 0:  # the rule's estimate is P times the mean of the paper's sum
                theta, G, C0 = theta - 0.3 * len(theta) / 2 * G, torch.zeros_like(theta), None
            moved = code(1)[0].double()
            C0 = cost(theta) if C0 is None else C0
            G = G + (cost(theta + moved) - C0) * moved / 0.1**2
        theta = theta - 0.3 * len(theta) / 2 * G
    torch.testing.assert_close(nn.utils.parameters_to_vector(rule.network.parameters()).detach(), theta)


def test_batches_of_one_update_are_averaged():
    x, y = batch(8)
    rule = MGD(network(), code="walsh", tau_x=32, tau_theta=64, norm=1e-4)
    for rows in (slice(0, 4), slice(4, 8)):
        rule.backward(x[rows], y[rows])
    torch.testing.assert_close(gradient_of(rule), true_gradient(rule.network, x, y), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_how_many_are_evaluated_at_once_changes_nothing(at_once):
    """With dropout and batch norm: one mask for all, and statistics that move once."""
    x, y = batch()
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    rule = MGD(made, code="walsh", tau_x=32, at_once=at_once, norm=1e-3)
    torch.manual_seed(5)
    loss = rule.backward(x, y)
    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    reference = MGD(other, code="walsh", tau_x=32, norm=1e-3)
    reference.code.load_state_dict({**rule.code.state_dict(), "time": torch.tensor(0)})
    torch.manual_seed(5)
    torch.testing.assert_close(loss, reference.backward(x, y))
    torch.testing.assert_close(gradient_of(rule), gradient_of(reference), rtol=1e-6, atol=1e-9)
    assert made[1].num_batches_tracked == 1
    torch.testing.assert_close(made[1].running_mean, 0.1 * made[0](x).mean(dim=0))


def test_nothing_is_differentiated():
    """No graph, and no operation that autograd cannot pass."""

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2))

        def forward(self, x):
            return torch.round(100 * (x @ self.weight)) / 100

    torch.manual_seed(0)
    rule = MGD(Step(), lambda out, y: (out - y).square().mean(), tau_x=2000, norm=0.5, at_once=500)
    x = torch.randn(50, 3)
    target = x @ torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    before = rule.backward(x, target)
    assert not before.requires_grad
    with torch.no_grad():
        rule.network.weight -= 0.1 * rule.network.weight.grad
    assert rule.backward(x, target) < before


def test_noise_and_clamp_reach_the_change_of_cost():
    rule, x = linear_rule("sequential", 26, cost_noise=0.3)
    found = []
    for _ in range(300):
        rule.zero_grad()
        rule.backward(x, x)
        found.append(gradient_of(rule) - x[0])
    spread = torch.stack(found).std()  # the noise of one read, divided by the norm
    assert spread == pytest.approx(0.3 / 0.5, rel=0.05)
    clamped, x = linear_rule("sequential", 26, clamp=0.01)
    clamped.backward(x, x)
    torch.testing.assert_close(gradient_of(clamped), x[0].clamp(-0.02, 0.02))


def test_frozen_parameters_are_not_perturbed():
    x, y = batch()
    module = network()
    module[0].requires_grad_(False)
    rule = MGD(module, code="walsh", tau_x=16, norm=1e-4)
    assert rule.code.size == 10
    rule.backward(x, y)
    expected = torch.autograd.grad(F.cross_entropy(module(x), y), list(module[2].parameters()))
    torch.testing.assert_close(flat(p.grad for p in module[2].parameters()), flat(expected), rtol=1e-2, atol=1e-4)
    assert module[0].weight.grad is None


def test_what_vmap_cannot_run_is_told_and_runs_one_by_one():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            scores = self.inner(x)
            return scores * (1 if float(scores.sum()) > -1e9 else 2)

    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(UnsupportedNetworkError, match="at_once=1"):
        MGD(Counts(), tau_x=4).backward(x, y)
    rule = MGD(Counts(), tau_x=4, at_once=1)
    rule.backward(x, y)
    assert rule.network.inner.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_x": 0}, "tau_x must be a whole number of at least 1"),
        ({"tau_x": 2.5}, "tau_x must be a whole number of at least 1, got 2.5"),
        ({"tau_p": 1.5}, "tau_p must be a whole number"),
        ({"norm": float("nan")}, "norm must be a number above 0"),
        ({"cost_noise": float("nan")}, "cost_noise must be a number of at least 0"),
        ({"tau_x": 6, "tau_theta": 4}, "tau_theta must be a multiple of tau_x, or divide it"),
        ({"tau_x": 4, "tau_theta": 6}, "tau_theta must be"),
        ({"cost_noise": -1.0}, "cost_noise"),
        ({"clamp": 0.0}, "clamp"),
        ({"code": "gold"}, "code must be"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        MGD(network(), **options)


def test_nothing_to_train_and_nan_are_refused():
    with pytest.raises(UnsupportedNetworkError, match="nothing to perturb"):
        MGD(nn.ReLU())
    x, y = batch()
    rule = MGD(network(), tau_x=4)
    with pytest.raises(NonFiniteError, match=r"layer|input"):
        rule.backward(x * torch.inf, y)
    assert int(rule.steps) == 0
    assert not rule.accumulated.any()
    with pytest.raises(UserError, match=r"0\.\.1"):
        rule.backward(x, y + 1)


def population(count=3):
    torch.manual_seed(0)
    return Population(network, count)


def each_cost(outputs, y):
    return torch.stack([F.cross_entropy(scores, y) for scores in outputs])


@pytest.mark.parametrize("code", ["sequential", "walsh"])
def test_every_copy_learns_what_it_would_alone(code):
    x, y = batch()
    torch.manual_seed(7)
    networks = [network() for _ in range(3)]
    for number, one in enumerate(networks):
        with torch.no_grad():
            for p in one.parameters():
                p.add_(0.1 * number)
    given = iter(networks)
    rule = MGD(Population(lambda: next(given), 3), each_cost, code=code, tau_x=32, norm=1e-2, copies=3)
    loss = rule.backward(x, y)
    torch.testing.assert_close(loss, each_cost([one(x) for one in networks], y).mean().detach())
    for number, one in enumerate(networks):
        alone = MGD(one, code=code, tau_x=32, norm=1e-2)
        alone.code.load_state_dict({**rule.code.state_dict(), "time": torch.tensor(0)})
        alone.backward(x, y)
        found = flat(p.grad[number] for p in rule.network.parameters())
        torch.testing.assert_close(found, gradient_of(alone))


def test_random_codes_of_copies_are_their_own_and_have_one_norm():
    x, y = batch()
    rule, seen = MGD(population(), each_cost, tau_x=50, norm=0.2, copies=3), []
    costs = rule.costs
    rule.costs = lambda perturbations, *rest: seen.append(perturbations[1:]) or costs(perturbations, *rest)
    rule.backward(x, y)
    torch.testing.assert_close(seen[0].norm(dim=2), torch.full((50, 3), 0.2).double())
    assert not torch.equal(seen[0][:, 0], seen[0][:, 1])


def test_copies_that_are_not_the_first_dimension_are_refused():
    with pytest.raises(UserError, match="first dimension"):
        MGD(network(), each_cost, copies=3)


def test_a_hundred_seeds_of_xor_are_one_run():
    """With four hidden units and Adam; the paper's two often end in a minimum that is none."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])

    def make():
        made = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())
        for p in made.parameters():
            nn.init.uniform_(p, -0.5, 0.5)
        return made

    torch.manual_seed(0)
    rule = MGD(Population(make, 100), lambda out, t: (out - t).square().mean(dim=(1, 2)), norm=0.05, copies=100)
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    for _ in range(1000):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    solved = ((rule.network(x) > 0.5) == (y > 0.5)).flatten(1).all(dim=1)
    assert solved.double().mean() >= 0.95
    assert rule(x).shape == (4, 1)


def test_noise_is_drawn_for_every_read_and_copy_and_is_clamped_with_the_change():
    """A cost that never changes: what is heard is the noise alone."""
    torch.manual_seed(0)
    population = Population(lambda: nn.Linear(1, 1, bias=False), 500)
    x = torch.zeros(1, 1)
    for clamp, expected in ((None, 1.0), (0.01, 0.01)):
        rule = MGD(population, lambda z, _: z.flatten(1).sum(dim=1), norm=1.0, copies=500, cost_noise=1.0, clamp=clamp)
        heard = []
        for _ in range(40):
            rule.zero_grad()
            rule.backward(x, x[:, 0])
            heard.append(next(population.parameters()).grad.abs().flatten())
        heard = torch.stack(heard)
        if clamp is None:
            assert abs(float(heard.square().mean()) - 1) < 0.05
            assert abs(float(heard.mean(dim=1).std())) < 0.1  # no read's noise is that of all copies
            assert abs(float(heard.mean(dim=0).std()) - 0.6 / 40**0.5) < 0.03
        assert heard.max() <= expected + 1e-6 or clamp is None


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_loss_that_gives_no_one_cost_is_told(at_once):
    x, y = batch()
    rule = MGD(network(), nn.CrossEntropyLoss(reduction="none"), at_once=at_once)
    with pytest.raises(UserError, match=r"a scalar, got shape \(6,\)"):
        rule.backward(x, y)


def test_errors_that_are_not_vmaps_are_torchs_own():
    """To evaluate one after another would be no way out."""
    rule = MultiplexedGradientDescent(nn.Linear(4, 3), F.cross_entropy)
    with pytest.raises(RuntimeError, match="Expected size") as caught:
        rule.backward(torch.randn(5, 6), torch.arange(5) % 3)
    assert not isinstance(caught.value, UserError)


def test_what_vmap_cannot_run_is_told_with_the_way_out(one_line):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.read = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.read(self.rnn(x)[0][:, -1])

    x, y = torch.randn(5, 7, 3), torch.arange(5) % 3
    with one_line(UnsupportedNetworkError, "make the rule with at_once=1"):
        MultiplexedGradientDescent(Reader()).backward(x, y)
    assert MultiplexedGradientDescent(Reader(), at_once=1).backward(x, y).isfinite()

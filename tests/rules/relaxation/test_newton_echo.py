"""Gauss-Newton by echoes: the Jacobian against autograd, a step against least squares, and what it is for."""

import pytest
import torch

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.networks.hamiltonian_echo import cavity_array
from beyondprop.rules.relaxation.newton_echo import GaussNewtonEcho

AMPLITUDES = torch.tensor([0.45, 0.49]).double()  # about 1.4 and 1.6 times the paper's I0
X = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).double()
Y = torch.tensor([0, 1, 1, 0])
EVEN = torch.full((4,), 0.25).double()


def starts(count, seed=0):
    theta = torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)).double()
    return theta / theta.norm(dim=1, keepdim=True)


def made(length=60, amplitudes=AMPLITUDES, **options):
    system = cavity_array(amplitudes, starts(len(amplitudes)), steps=length)
    return GaussNewtonEcho(system, 0.5 * amplitudes, X, Y, every=2, points=3, epsilon=1e-4, **options)


def taken(rule, x=X, y=Y):
    """Where SGD with a learning rate of 1 goes."""
    rule.zero_grad()
    rule.backward(x, y)
    return (rule.network.theta - rule.network.theta.grad).detach()


def test_residuals_are_of_the_costs():
    rule = made()
    residuals, _ = rule.linearised(X, Y, EVEN)
    torch.testing.assert_close(residuals.square().sum(dim=1), rule.costs(rule.shares()))


def test_echoes_bring_the_jacobian_back():
    rule = made()
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    residuals, jacobian = rule.linearised(X, Y, weights)
    outputs = rule.network.unrolled(X) / (0.5 * AMPLITUDES) - (1.0 - 2 * Y)[:, None]
    parts = torch.cat([outputs.real, outputs.imag]) * weights.sqrt().repeat(2)[:, None]
    rows = [torch.autograd.grad(part.sum(), rule.network.theta, retain_graph=True)[0] for part in parts]
    torch.testing.assert_close(residuals, parts.detach().T)
    torch.testing.assert_close(jacobian, torch.stack(rows, dim=1), rtol=1e-6, atol=1e-8)


def test_a_step_is_the_best_of_three_damped_least_squares():
    rule = made(longest=1e9)
    residuals, jacobian = rule.linearised(X, Y, EVEN)
    found = taken(rule)
    for replica, (r, rows) in enumerate(zip(residuals, jacobian, strict=True)):
        scale = (rows @ rows.T).diagonal().mean()
        tries = []
        for damping in (0.2e-2, 1e-2, 5e-2):
            damped = torch.cat([rows, (damping * scale).sqrt() * torch.eye(16).double()])
            step = torch.linalg.lstsq(damped, -torch.cat([r, torch.zeros(16).double()])[:, None]).solution[:, 0]
            tries.append(rule.network.theta[replica].detach() + step)
        costs = []
        for theta in tries:
            other = made()
            other.network.theta.data[replica] = theta
            costs.append(float(other.costs(other.shares())[replica]))
        best = min(range(3), key=costs.__getitem__)
        torch.testing.assert_close(found[replica], tries[best], rtol=1e-7, atol=1e-9)
        assert float(rule.ridge[replica]) == pytest.approx((0.2e-2, 1e-2, 5e-2)[best])


def test_no_step_raises_a_cost_and_the_damping_grows_where_none_helps():
    rule = made()
    rule.ridge.fill_(1.0)
    before = rule.costs(rule.shares())
    for _ in range(6):
        following = taken(rule)
        with torch.no_grad():
            rule.network.theta.copy_(following)
        after = rule.costs(rule.shares())
        assert (after <= before).all()
        before = after
    rule.ridge.fill_(1e-9)
    rule._costs_of = lambda thetas, *_: torch.full((len(thetas), 2), torch.nan).double()
    assert torch.equal(taken(rule), rule.network.theta)
    torch.testing.assert_close(rule.ridge, torch.full((2,), 25e-9).double())


def test_steps_are_no_longer_than_asked():
    rule = made(longest=1e-3)
    lengths = (taken(rule) - rule.network.theta).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((2,), 1e-3).double())


def test_a_pattern_that_comes_twice_weighs_twice():
    rule, other = made(), made()
    again = torch.tensor([0, 1, 2, 3, 1])
    x, y, weights = X, Y, torch.tensor([0.2, 0.4, 0.2, 0.2]).double()
    expected = other.linearised(x, y, weights)[0].square().sum(dim=1)
    assert float(rule.backward(X[again], Y[again])) == pytest.approx(float((expected * (AMPLITUDES / 2) ** 2).mean()))


def test_exclusive_or_is_solved_to_rounding():
    """At 1.6 I0, with the paper's 499 steps."""
    rule = made(length=499, amplitudes=torch.full((3,), 0.49).double())
    optimizer = torch.optim.SGD(rule.parameters(), lr=1.0)
    for _ in range(25):
        optimizer.zero_grad()
        rule.backward(X, Y)
        optimizer.step()
    assert rule.costs(rule.shares()).min() < 1e-20
    assert not torch.isnan(rule.course).any()
    assert int(rule.taken) == 25


def test_what_sticks_begins_anew_and_nothing_else():
    asked = []

    def draw(count):
        asked.append(count)
        return starts(count, seed=7)

    rule = made(draw=draw, patience=2, enough=1e-3)
    rule.linearised = lambda *_: (torch.tensor([[1e-3] * 8, [1.0] * 8]).double(), torch.ones(2, 8, 16).double())
    first, _ = taken(rule), taken(rule)
    assert asked == []
    third = taken(rule)  # two steps were taken
    assert asked == [1]
    assert rule.age.tolist() == [3, 0]
    assert float(rule.ridge[1]) == 1e-2
    torch.testing.assert_close(third[1], starts(1, seed=7)[0])
    torch.testing.assert_close(third[0], first[0])
    other = made(draw=draw)
    other.load_state_dict(rule.state_dict())
    assert other.age.tolist() == [3, 0]


@pytest.mark.parametrize(("steps", "anew"), [(None, 1), (3, 1), (2, 0)])
def test_none_begins_anew_for_less_than_its_time(steps, anew):
    asked = []
    rule = made(draw=lambda count: asked.append(count) or starts(count), patience=1, steps=steps)
    rule.linearised = lambda *_: (torch.tensor([[1e-5] * 8, [1e-4] * 8]).double(), torch.ones(2, 8, 16).double())
    for _ in range(3):
        taken(rule)
    assert asked == [1] * anew  # residuals of the other square to less than 1e-8


def test_a_try_that_is_not_a_number_is_none():
    rule = made()
    expected = made()
    costs = rule._costs_of

    def first_lost(thetas, *rest):
        found = costs(thetas, *rest)
        found[0] = torch.nan
        return found

    rule._costs_of = first_lost
    expected._costs_of = lambda thetas, *rest: costs(thetas, *rest).index_fill(0, torch.tensor([0]), torch.inf)
    torch.testing.assert_close(taken(rule), taken(expected))
    rule.ridge.fill_(1e6)
    rule._costs_of = lambda thetas, *_: torch.full((len(thetas), 2), torch.inf).double()
    taken(rule)
    assert rule.ridge.tolist() == [1e6, 1e6]


def test_refusals(one_line):
    with one_line(UserError, "patience"):
        made(patience=0)
    with one_line(UserError, "7"):
        made(length=2).backward(X, torch.tensor([0, 1, 1, 7]))
    with one_line(UserError, "all 4 patterns", "2 of them"):
        made(length=2).backward(X[:2].repeat(3, 1), Y[:2].repeat(3))
    rule = made(length=2)
    rule.network.theta.data[0, 0] = torch.nan
    with one_line(NonFiniteError, "NaN"):
        rule.backward(X, Y)
    assert rule.network.theta.grad is None

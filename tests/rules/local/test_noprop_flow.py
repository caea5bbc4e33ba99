"""NoProp-FM's loss against the formula written out, its learned field against the known answer, its prediction."""

import math

import pytest
import torch
from timed_parts import LABELS, Flat, inputs
from torch import nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropFM


def make(embedding=None, **options):
    torch.manual_seed(0)
    embedding = embedding or ClassEmbedding.one_hot(3)
    return NoPropFM(nn.Linear(6, 4), Flat(embedding.dim), embedding, **options).double()


@pytest.mark.parametrize("kind", ["one-hot", "learned"])
def test_loss_and_gradients_equal_the_formula(kind):
    torch.manual_seed(1)
    embedding = ClassEmbedding.one_hot(3) if kind == "one-hot" else ClassEmbedding.orthogonal(3, 5)
    rule, x = make(embedding, sigma=0.3), inputs()
    torch.manual_seed(8)
    loss = rule.backward(x, LABELS)
    found = {name: p.grad.clone() for name, p in rule.named_parameters()}
    rule.zero_grad()
    torch.manual_seed(8)
    shift, shape = torch.rand((), dtype=torch.float64), (5, rule.embedding.dim)
    start, blur = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    expected, rows = 0, rule.embedding.rows
    for i, label in enumerate(LABELS):
        t = (i / 5 + shift) % 1
        z = t * rows[label] + (1 - t) * start[i] + 0.3 * blur[i]
        v = rule.block.linear(torch.cat([z, rule.encoder(x[i]), t.reshape(1)])) @ rows
        expected = expected + ((v - (rows[label] - start[i])) ** 2).sum()
        if kind == "learned":
            expected = expected - rule.head(z + (1 - t) * v).log_softmax(0)[label]
    expected = expected / 5
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in rule.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_fixed_embedding_has_no_head_and_a_learned_one_has():
    assert make().head is None
    assert [group["name"] for group in make().parameter_groups()] == ["network"]
    learned = make(ClassEmbedding.orthogonal(3, 5))
    assert [group["name"] for group in learned.parameter_groups()] == ["network", "head", "embedding"]


def closed_form(rule, z, t, probabilities):
    """E[u - z_0 | z_t = z] where u is row k with a given probability, z_0 ~ N(0, I): Bayes' rule over three rows."""
    rows, sigma = rule.embedding.rows, rule.sigma
    t = torch.as_tensor(t)  # one for all, or shape (points, 1, 1)
    variance = (1 - t) ** 2 + sigma**2
    off = z.unsqueeze(1) - t * rows  # (points, rows, d)
    weights = (probabilities.log() - (off.square() / (2 * variance)).sum(2)).softmax(1)
    start = (1 - t) / variance * off
    return (weights.unsqueeze(2) * (rows - start)).sum(1)


CHANCES = torch.tensor([[0.5, 0.3, 0.2], [0.02, 0.95, 0.03]])
"""The discrete problem: x is one of two kinds, and each has its own chances of the three classes."""


def draw(count):
    kind = torch.randint(2, (count,))
    return nn.functional.one_hot(kind, 2).float(), torch.multinomial(CHANCES[kind], 1).squeeze(1)


class Layers(nn.Module):
    """Enough of a network for a field over three dimensions, time, and two kinds of x."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))

    def forward(self, z, h, t):
        return self.layers(torch.cat([z, h, t.unsqueeze(1)], dim=1))


class Moved(nn.Module):
    """The conditional expectation itself, moved by a multiple of each of a few functions of z, x and t."""

    def __init__(self, rule):
        super().__init__()
        self.rule = [rule]
        self.by = nn.Parameter(torch.zeros(3, 3, 2))

    def forward(self, z, h, t):
        best = torch.empty_like(z)
        for kind in (0, 1):
            mine = h[:, kind] == 1
            best[mine] = closed_form(self.rule[0], z[mine], t[mine].reshape(-1, 1, 1), CHANCES[kind])
        tests = torch.stack([torch.ones_like(t), t, torch.tanh(z[:, 0])], dim=1)
        return best + torch.einsum("bi,ijk,bk->bj", tests, self.by, h)


def test_no_small_change_to_the_conditional_expectation_lowers_the_loss():
    """The gradient at the closed form is zero within its own standard error: the loss is least there."""
    torch.manual_seed(0)
    rule = NoPropFM(nn.Identity(), nn.Linear(1, 1), ClassEmbedding.one_hot(3), sigma=0.5)
    rule.block = Moved(rule)
    gradients = []
    for _ in range(50):
        rule.zero_grad()
        rule.backward(*draw(2000))
        gradients.append(rule.block.by.grad.clone())
    stacked = torch.stack(gradients)
    error = stacked.std(dim=0) / math.sqrt(len(gradients))
    assert (stacked.mean(dim=0).abs() < 4.5 * error + 1e-6).all()
    assert error.max() < 0.01  # small beside the gradient of 0.1 that any constant error of 0.05 would give


def test_learned_field_is_the_conditional_expectation():
    torch.manual_seed(0)
    rule = NoPropFM(nn.Identity(), Layers(), ClassEmbedding.one_hot(3), sigma=0.5)
    optimizer = torch.optim.Adam(rule.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=1000)
    for _ in range(1000):
        optimizer.zero_grad()
        rule.backward(*draw(512))
        optimizer.step()
        scheduler.step()
    for kind in (0, 1):
        for t, tolerance in ((0.2, 0.02), (0.5, 0.04), (0.8, 0.12)):
            # Points where the field is asked for: drawn from its own marginal.
            u = rule.embedding.rows[torch.multinomial(CHANCES[kind], 1000, replacement=True)]
            z = t * u + (1 - t) * torch.randn_like(u) + 0.5 * torch.randn_like(u)
            h = nn.functional.one_hot(torch.tensor([kind]), 2).float().expand(1000, 2)
            with torch.no_grad():
                learned = rule.velocity(z, h, torch.tensor(t))
            exact = closed_form(rule, z, t, CHANCES[kind])
            assert (learned - exact).square().sum(1).mean() < tolerance * exact.var(dim=0).sum()


class Straight(nn.Module):
    """The velocity of a known label, row 1, in the span of one-hot rows: (u - z) / (1 - t)."""

    def forward(self, z, h, t):
        return (torch.tensor([0.0, 1.0, 0.0], dtype=z.dtype) - z) / (1 - t).clamp_min(1e-6).reshape(-1, 1)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("grid", ["uniform", "log-snr"])
def test_a_straight_field_is_followed_exactly_in_any_number_of_steps(steps, grid):
    rule = make()
    rule.block = Straight()
    scores = rule(inputs(), steps=steps, grid=grid, start="noise")
    # At u the nearness is 1/2 to its own row and -1/2 to the others, ten times over.
    torch.testing.assert_close(
        scores, torch.tensor([[-5.0, 5.0, -5.0]], dtype=torch.float64).log_softmax(1).expand(5, 3)
    )


def test_predicts_the_nearest_embedding():
    torch.manual_seed(0)
    rule = make(ClassEmbedding.orthogonal(3, 5))
    with torch.no_grad():  # rows of different lengths: the largest product is not the nearest
        rule.embedding.table.mul_(torch.tensor([[1.0], [3.0], [0.3]], dtype=torch.float64))
    x, rows = inputs().repeat(40, 1), rule.embedding.rows
    torch.manual_seed(1)
    scores = rule(x, steps=4, start="noise")
    torch.manual_seed(1)
    z, h = rule.start_at("noise", len(x)), rule.encoder(x)
    for i in range(4):
        z = z + 0.25 * rule.velocity(z, h, torch.tensor(i / 4, dtype=torch.float64))
    nearest = torch.cdist(z, rows).argmin(1)
    assert torch.equal(scores.argmax(1), nearest)
    assert not torch.equal((z @ rows.T).argmax(1), nearest)


def test_solvers_of_one_equation_meet():
    rule = make()
    reached = [rule(inputs(), steps=400, method=m, grid=g) for m in ("euler", "heun", "adams-bashforth")
               for g in ("uniform", "log-snr")]  # fmt: skip
    for scores in reached[1:]:
        assert (scores - reached[0]).abs().max() < 0.05


def test_consistency_equals_the_formula_with_the_later_answer_held_fixed():
    rule, x = make(consistency=3.0, sigma=0.3), inputs()
    torch.manual_seed(6)
    loss = rule.backward(x, LABELS)
    found = {name: p.grad.clone() for name, p in rule.named_parameters()}
    rule.zero_grad()
    torch.manual_seed(6)
    shift = torch.rand((), dtype=torch.float64)
    start, blur = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    expected, rows = 0, rule.embedding.rows
    for i, label in enumerate(LABELS):

        def reached(t, i=i, label=label):
            z = t * rows[label] + (1 - t) * start[i] + 0.3 * blur[i]
            v = rule.block.linear(torch.cat([z, rule.encoder(x[i]), t.reshape(1)])) @ rows
            return v, z + (1 - t) * v

        t = (i / 5 + shift) % 1
        v, end = reached(t)
        aim = reached(t + (1 - t) / 10)[1].detach()
        expected = expected + ((v - (rows[label] - start[i])) ** 2).sum() + 3 * ((end - aim) ** 2).sum()
    expected = expected / 5
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in rule.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: make(sigma=-0.1), "sigma"),
        (lambda: make(consistency=-1.0), "consistency"),
        (lambda: make()(inputs(), steps=0), "steps"),
        (lambda: make()(inputs(), method="multistep"), "method"),
        (lambda: make()(inputs(), grid="square"), "grid"),
        (lambda: make()(inputs(), start="here"), "start"),
        (lambda: make().backward(inputs().fill_(math.nan), LABELS), "block"),
    ],
)
def test_bad_options_are_named(call, word):
    with pytest.raises((UserError, NonFiniteError), match=word):
        call()

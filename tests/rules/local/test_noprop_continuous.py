"""NoProp-CT's loss against the formula written out, its gradients, and its prediction."""

import math

import pytest
import torch
from timed_parts import LABELS, Flat, inputs
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.local.noprop import ClassEmbedding, NoPropCT, TimedBlock


def make(embedding=None, **options):
    torch.manual_seed(0)
    embedding = embedding or ClassEmbedding.one_hot(3)
    return NoPropCT(nn.Linear(6, 4), Flat(embedding.dim), embedding, **options).double()


def by_hand(rule, x, y, *, seed, weighting, eta, consistency=0.0):
    """Section 2.2.2, term by term, sample by sample; draws in the order of the rule."""
    torch.manual_seed(seed)
    shift, dim = torch.rand((), dtype=torch.float64), rule.embedding.dim
    times = [float((i / len(y) + shift) % 1) for i in range(len(y))]
    noise = torch.randn(len(y), dim, dtype=torch.float64)
    noise_at_1 = torch.randn(len(y), dim, dtype=torch.float64)
    rows = rule.embedding.rows

    def gamma(t):
        return rule.schedule(torch.tensor(t, dtype=torch.float64))

    def inner(t):  # under (log SNR)' the denoising term teaches the ends nothing
        if weighting == "snr":
            return gamma(t)
        low, high = gamma(0.0), gamma(1.0)
        share = (gamma(t) - low) / (high - low)
        return low.detach() + share * (high - low).detach()

    total = 0
    for i, label in enumerate(y):
        u, t, h = rows[label], times[i], 1e-6
        keep = 1 / (1 + inner(t).exp())
        z = keep.sqrt() * u + (1 - keep).sqrt() * noise[i]
        logits = rule.block.linear(torch.cat([z, rule.encoder(x[i]), torch.tensor([t], dtype=torch.float64)]))
        guess = logits.softmax(0) @ rows
        if weighting == "snr":  # SNR'(t) by differences of SNR itself
            weight = ((-inner(t + h)).exp() - (-inner(t - h)).exp()) / (2 * h)
        else:
            weight = (inner(t - h) - inner(t + h)) / (2 * h)
        total = total + eta / 2 * weight * ((guess - u) ** 2).sum()
        later = t + (1 - t) / 10
        keep_later = 1 / (1 + gamma(later).exp())
        z_later = keep_later.sqrt() * u + (1 - keep_later).sqrt() * noise[i]
        inputs_later = torch.cat([z_later, rule.encoder(x[i]), torch.tensor([later], dtype=torch.float64)])
        aim = (rule.block.linear(inputs_later).softmax(0) @ rows).detach()
        total = total + consistency * eta / 2 * ((guess - aim) ** 2).sum()
        keep_1 = 1 / (1 + gamma(1.0).exp())
        z_1 = keep_1.sqrt() * u + (1 - keep_1).sqrt() * noise_at_1[i]
        total = total - rule.head(z_1).log_softmax(0)[label]
        keep_0 = 1 / (1 + gamma(0.0).exp())
        q = torch.distributions.Normal(keep_0.sqrt() * u, (1 - keep_0).sqrt())
        total = total + torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    return total / len(y)


@pytest.mark.parametrize("weighting", ["snr", "log-snr"])
@pytest.mark.parametrize("kind", ["one-hot", "learned"])
def test_loss_and_gradients_equal_the_formula(weighting, kind):
    torch.manual_seed(1)
    embedding = ClassEmbedding.one_hot(3) if kind == "one-hot" else ClassEmbedding.orthogonal(3, 5)
    rule = make(embedding, weighting=weighting, eta=0.7)
    x = inputs()
    torch.manual_seed(8)
    loss = rule.backward(x, LABELS)
    found = {name: p.grad.clone() for name, p in rule.named_parameters()}
    rule.zero_grad()
    expected = by_hand(rule, x, LABELS, seed=8, weighting=weighting, eta=0.7)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in rule.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_loss_does_not_depend_on_the_way_between_the_schedules_ends():
    """Both weightings are integrals over the noise level: another g̃ with the same ends changes nothing but noise."""

    def mean_loss(rule, seed):
        torch.manual_seed(seed)
        x, y = inputs().repeat(4000, 1), LABELS.repeat(4000)
        with torch.no_grad():
            return float(rule.batch_loss(rule.encoder(x), y))

    class Timeless(nn.Module):
        """A network may tell the time; the integral's invariance is of what z alone says."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3).double()

        def forward(self, z, h, t):
            return 3 * self.linear(z)

    for weighting in ("log-snr", "snr"):
        rule = make(weighting=weighting)
        rule.block = Timeless()
        before = mean_loss(rule, 0)
        with torch.no_grad():
            rule.schedule.weights.copy_(torch.linspace(-3, 3, len(rule.schedule.weights)))
        assert mean_loss(rule, 1) == pytest.approx(before, rel=0.03)


def test_consistency_equals_the_formula_with_the_later_answer_held_fixed():
    rule, x = make(consistency=2.0, eta=0.7, weighting="snr"), inputs()
    torch.manual_seed(4)
    loss = rule.backward(x, LABELS)
    found = {name: p.grad.clone() for name, p in rule.named_parameters()}
    rule.zero_grad()
    expected = by_hand(rule, x, LABELS, seed=4, weighting="snr", eta=0.7, consistency=2.0)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in rule.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_ends_of_the_schedule_learn_from_the_bound_alone():
    """(log SNR)' is no bound: by its errors the schedule would only cut off the noise where they are large."""
    for weighting in ("log-snr", "snr"):
        gradients = []
        for eta in (0.5, 5.0):
            rule = make(weighting=weighting, eta=eta)
            torch.manual_seed(2)
            rule.backward(inputs(), LABELS)
            gradients.append((rule.schedule.span.grad.item(), rule.schedule.clean.grad.item()))
        assert (gradients[0] == gradients[1]) is (weighting == "log-snr")


def test_draws_read_the_image_once_and_average():
    rule = make(draws=3)
    calls = []
    rule.encoder.register_forward_hook(lambda _module, args, _output: calls.append(len(args[0])))
    x = inputs()
    torch.manual_seed(2)
    loss = rule.backward(x, LABELS)
    assert calls == [5]
    torch.manual_seed(2)
    with torch.no_grad():
        expected = by_hand(rule, x.repeat(3, 1), LABELS.repeat(3), seed=2, weighting="log-snr", eta=1.0)
    assert float(loss) == pytest.approx(float(expected))


def test_times_are_uniform_and_evenly_spread():
    rule = make()
    torch.manual_seed(0)
    draws = torch.stack([rule.draw_times(8) for _ in range(4000)])
    assert ((draws >= 0) & (draws < 1)).all()
    for index in (0, 5):  # each sample's own time is uniform
        share = draws[:, index].histc(10, 0, 1) / 4000
        assert (share - 0.1).abs().max() < 0.025
    assert (draws.sort(dim=1).values.diff(dim=1) - 1 / 8).abs().max() < 1e-6


class Sure(nn.Module):
    """Says class 1 to all from the start."""

    def forward(self, z, h, t):
        return 50.0 * nn.functional.one_hot(torch.ones(len(z), dtype=torch.int64), 3).to(z)


@pytest.mark.parametrize("method", ["multistep", "exponential", "heun", "euler", "ancestral"])
@pytest.mark.parametrize("grid", ["log-snr", "uniform"])
def test_every_way_to_predict_reaches_what_the_block_says(method, grid):
    rule = make()
    rule.block = Sure()
    for steps in (1, 2, 30):
        if steps == 1 and method in ("heun", "euler") and grid == "log-snr":
            continue  # one step of either is far off where gamma is steep
        scores = rule(inputs(), steps=steps, method=method, grid=grid)
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(5, dtype=torch.float64))
        if steps == 30:
            assert (scores.argmax(1) == 1).all()


def test_solvers_of_one_equation_meet():
    """With 400 steps every deterministic way ends at the same z_1, whatever the grid."""
    rule = make()
    reached = [
        rule(inputs(), steps=400, method=method, grid=grid, start="zero")
        for method in ("multistep", "exponential", "heun", "euler")
        for grid in ("log-snr", "uniform")
    ]
    for scores in reached[1:]:
        assert (scores - reached[0]).abs().max() < 0.05


def test_ancestral_sampling_is_random_and_the_flow_is_not():
    rule, x = make(), inputs()
    assert torch.equal(rule(x), rule(x))
    assert not torch.equal(rule(x, method="ancestral"), rule(x, method="ancestral"))
    assert not torch.equal(rule(x, start="noise"), rule(x, start="noise"))


def test_predicting_reads_the_image_once():
    rule, calls = make(), []
    rule.encoder.register_forward_hook(lambda *_: calls.append(1))
    rule(inputs(), steps=50)
    assert len(calls) == 1


def test_grid_runs_from_noise_to_clean():
    rule = make()
    for grid in ("uniform", "log-snr"):
        times = rule.time_grid(7, grid)
        assert times.shape == (8,)
        assert (times[0], times[-1]) == (0, 1)
        assert (times.diff() > 0).all()
    steps = rule.schedule(rule.time_grid(7, "log-snr")).diff()
    torch.testing.assert_close(steps, steps.mean().expand(7), rtol=0.02, atol=0)


def test_schedule_is_a_group_without_weight_decay():
    groups = {group["name"]: group for group in make(ClassEmbedding.orthogonal(3, 5)).parameter_groups()}
    assert list(groups) == ["network", "schedule", "head", "embedding"]
    assert groups["schedule"]["weight_decay"] == 0
    assert "weight_decay" not in groups["network"]


def test_one_time_for_all_equals_the_same_time_for_each():
    torch.manual_seed(0)
    block = TimedBlock(8, classes=3, dim=3)
    z, h = torch.randn(5, 3), torch.randn(5, 8)
    torch.testing.assert_close(block(z, h, torch.tensor(0.37).expand(5)), block(z, h, torch.full((5,), 0.37)))
    assert not torch.allclose(block(z, h, torch.full((5,), 0.37)), block(z, h, torch.full((5,), 0.38)))
    runs = []
    block.time_path.register_forward_hook(lambda _module, args, _output: runs.append(len(args[0])))
    block(z, h, torch.tensor(0.37).expand(5))
    assert runs == [1]


def test_timed_network_is_one_linear_layer_over_three_paths():
    """The image's part stands in the encoder, the others in the block: put side by side they are one layer."""
    torch.manual_seed(0)
    hidden, z, features, t = 16, torch.randn(5, 3), torch.randn(5, 8), torch.rand(5)
    encoder, block = TimedBlock.image_path(8, hidden), TimedBlock(hidden, classes=3, dim=3)
    parts = (encoder[-1], block.label_path[-1], block.time_path[-1])
    paths = (encoder[:-1](features), block.label_path[:-1](z), block.time_path[:-1](t))
    joined = nn.functional.linear(
        torch.cat(paths, dim=1), torch.cat([part.weight for part in parts], dim=1), encoder[-1].bias
    )
    torch.testing.assert_close(block(z, encoder(features), t), block.fusion(joined))
    assert [part.bias is not None for part in parts] == [True, False, False]
    for part in parts:  # each starts as a third of one layer of 48 inputs
        assert 0.9 / 48**0.5 < part.weight.abs().max() <= 1 / 48**0.5


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: make(eta=0.0), "eta"),
        (lambda: make(consistency=-1.0), "consistency"),
        (lambda: make(weighting="none"), "weighting"),
        (lambda: make(draws=0), "draws"),
        (lambda: make()(inputs(), steps=0), "steps"),
        (lambda: make()(inputs(), method="magic"), "method"),
        (lambda: make()(inputs(), grid="square"), "grid"),
        (lambda: make()(inputs(), start="here"), "start"),
        (lambda: make().backward(inputs(), LABELS + 1), "labels"),
        (lambda: make().backward(inputs().fill_(math.nan), LABELS), "block"),
    ],
)
def test_bad_options_are_named(call, word):
    with pytest.raises((UserError, NonFiniteError), match=word):
        call()


def test_block_of_another_shape_is_named():
    with pytest.raises(UnsupportedNetworkError, match="block"):
        NoPropCT(nn.Linear(6, 4), Flat(classes=4), ClassEmbedding.one_hot(3)).double().backward(inputs(), LABELS)
    with pytest.raises(UnsupportedNetworkError, match="the encoder returns tuple"):
        NoPropCT(nn.GRU(6, 4), Flat(), ClassEmbedding.one_hot(3)).double()(inputs())
    with pytest.raises(UnsupportedNetworkError, match="tuple"):
        NoPropCT.for_classifier(nn.GRU(6, 4), inputs().float(), 3)
    with pytest.raises(UnsupportedNetworkError, match="for_classifier"):
        NoPropCT(nn.Linear(6, 4), [Flat()], ClassEmbedding.one_hot(3))

"""NoProp-DT against oracles written from the paper's equations, independently of the code."""

import itertools
import math

import pytest
import torch
from discrete_parts import BATCH, CLASSES, FEATURES, LEVELS, SmoothBlock, make_rule
from torch import nn

from beyondprop import data
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock, DiscreteSchedule, NoPropDT


@pytest.fixture
def batch():
    return torch.randn(BATCH, FEATURES, dtype=torch.float64), torch.randint(CLASSES, (BATCH,))


def clean_block(y, certainty=1e4):
    class Knows(nn.Module):
        def forward(self, z, x):
            del z, x
            return certainty * nn.functional.one_hot(y, CLASSES).to(torch.float64)

    return Knows()


@pytest.fixture
def given_noise(monkeypatch):
    """Hand out recorded draws, so that references can look them up: in one call of `backward`, z_T's come first."""
    steps = len(LEVELS) - 1
    drawn = {t: torch.randn(BATCH, 4, dtype=torch.float64) for t in range(steps + 1)}
    order = itertools.cycle([steps, *range(steps)])
    monkeypatch.setattr(torch, "randn_like", lambda like: drawn[next(order)].clone() + 0 * like.detach())
    return drawn


def reference_loss(rule, x, y, noise):
    """Equation (8), sample by sample and term by term, the expectation over t written out."""
    W = rule.embedding.rows
    steps = len(LEVELS) - 1
    snr = [level / (1 - level) for level in LEVELS]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        u = W[y[i]]
        z_T = LEVELS[-1] ** 0.5 * u + (1 - LEVELS[-1]) ** 0.5 * noise[steps][i]
        logits = rule.head.weight @ z_T + rule.head.bias
        p = logits.exp() / logits.exp().sum()
        total = total - p[y[i]].log()
        mean, variance = LEVELS[0] ** 0.5 * u, 1 - LEVELS[0]
        total = total + sum(0.5 * (variance + m**2 - 1 - math.log(variance)) for m in mean)
        for t in range(1, steps + 1):
            z = LEVELS[t - 1] ** 0.5 * u + (1 - LEVELS[t - 1]) ** 0.5 * noise[t - 1][i]
            scores = rule.network[t - 1](z[None], x[i : i + 1])[0]
            weights = scores.exp() / scores.exp().sum()
            u_hat = sum(weights[k] * W[k] for k in range(CLASSES))
            total = total + steps / 2 * 0.7 * (snr[t] - snr[t - 1]) * ((u_hat - u) ** 2).sum() / steps
    return total / len(x)


def test_loss_and_every_gradient_equal_the_slow_reference(batch, given_noise):
    rule = make_rule()
    x, y = batch
    loss = rule.backward(x, y)
    reference = reference_loss(rule, x, y, given_noise)
    expected = torch.autograd.grad(reference, list(rule.parameters()))
    torch.testing.assert_close(loss, reference.detach())
    for (name, parameter), gradient in zip(rule.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=name)


def test_gradients_equal_finite_differences(batch, given_noise):
    rule = make_rule()
    rule.backward(*batch)
    for parameter in (rule.network[1].net[0].weight, rule.embedding.table, rule.head.weight):
        gradient, flat = parameter.grad.flatten(), parameter.detach().view(-1)
        for i in (0, flat.numel() - 1):
            values = []
            for step in (1e-5, -2e-5):
                flat[i] += step
                values.append(reference_loss(rule, *batch, given_noise).item())
            flat[i] += 1e-5
            assert gradient[i].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_one_by_one_is_unbiased_for_the_whole_objective(batch, monkeypatch):
    """Algorithm 1's single-t losses, averaged over t, are the loss of all blocks; so are their gradients."""
    noise = {t: torch.randn(BATCH, 4, dtype=torch.float64) for t in range(len(LEVELS))}
    monkeypatch.setattr(NoPropDT, "noisy_label", lambda self, t, y: self.embedding(y) * LEVELS[t] + noise[t])
    together, apart = make_rule(), make_rule(order="one-by-one")
    apart.load_state_dict(together.state_dict())
    whole = together.backward(*batch)
    losses = []
    for stage in apart.stages:
        apart.stage = stage
        losses.append(apart.backward(*batch))
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad / len(apart.stages))


def test_one_by_one_leaves_the_other_blocks_alone(batch):
    rule = make_rule(order="one-by-one")
    rule.stage = "block 2"
    rule.backward(*batch)
    assert all(p.grad is None for block in (rule.network[0], rule.network[2]) for p in block.parameters())
    assert all(p.grad is not None for p in rule.network[1].parameters())
    assert rule.head.weight.grad is not None
    assert rule.embedding.table.grad is not None


@pytest.mark.usefixtures("given_noise")
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_no_gradient_crosses_from_one_block_to_another(batch, changed):
    """Whatever one block says, the gradients of all others stay the same to the bit; its own do not."""
    rule = make_rule()
    rule.backward(*batch)
    before = [[p.grad.clone() for p in block.parameters()] for block in rule.network]
    head_before = rule.head.weight.grad.clone()
    with torch.no_grad():
        for parameter in rule.network[changed].parameters():
            parameter.mul_(-3.0).add_(0.1)
    rule.zero_grad()
    rule.backward(*batch)
    for i, block in enumerate(rule.network):
        same = all(torch.equal(p.grad, old) for p, old in zip(block.parameters(), before[i], strict=True))
        assert same == (i != changed)
    assert torch.equal(rule.head.weight.grad, head_before)


def test_graph_of_a_block_ends_at_its_own_weights(batch):
    """Frozen: all blocks but one. Its loss then reaches its own weights and no buffer, head or row of the others."""
    rule = make_rule(learned=False)
    for i, block in enumerate(rule.network):
        block.requires_grad_(i == 1)
    rule.backward(*batch)
    reached = {name for name, p in rule.named_parameters() if p.grad is not None}
    assert reached == {f"network.1.net.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")} | {
        "head.weight",
        "head.bias",
    }


def test_noisy_labels_have_the_marginal_of_equation_6():
    rule = make_rule()
    y = torch.zeros(100_000, dtype=torch.int64)
    u = rule.embedding.rows[0].detach()
    for t, level in enumerate(LEVELS):
        z = rule.noisy_label(t, y).detach()
        sigma = math.sqrt(1 - level)
        assert (z.mean(dim=0) - math.sqrt(level) * u).abs().max() < 5 * sigma / math.sqrt(len(y))
        assert (z.std(dim=0) - sigma).abs().max() < 5 * sigma / math.sqrt(2 * len(y))


def test_chain_of_knowing_blocks_ends_in_the_clean_marginal():
    """Blocks that say û = u carry N(0, I) to N(sqrt(ᾱ_T) u, (1 - ᾱ_T) I): direction of time and noise are right."""
    count = 100_000
    y = torch.ones(count, dtype=torch.int64)
    embedding = ClassEmbedding(torch.randn(CLASSES, 4, dtype=torch.float64), learned=False)
    schedule = DiscreteSchedule((0.0, 0.2, 0.6, 0.9))
    rule = NoPropDT([clean_block(y) for _ in range(3)], embedding, schedule=schedule)
    z, _ = rule.run_chain(torch.zeros(count, 1), noise=True, start="noise")
    u = embedding.rows[1]
    assert (z.mean(dim=0) - math.sqrt(0.9) * u).abs().max() < 5 * math.sqrt(0.1 / count)
    assert (z.var(dim=0) - 0.1).abs().max() < 5 * 0.1 * math.sqrt(2 / count)
    quiet, _ = rule.run_chain(torch.zeros(count, 1))
    torch.testing.assert_close(quiet, (math.sqrt(0.9) * u).expand_as(quiet))


def test_prediction_equals_the_chain_written_out(batch):
    rule = make_rule()
    x, _ = batch
    W = rule.embedding.rows
    z = torch.zeros(BATCH, 4, dtype=torch.float64)
    spoken = []
    for t, block in enumerate(rule.network, start=1):
        before, now = LEVELS[t - 1], LEVELS[t]
        alpha = before / now
        p = block(z, x).softmax(dim=1)
        spoken.append(p)
        z = (now**0.5 * (1 - alpha) * (p @ W) + alpha**0.5 * (1 - now) * z) / (1 - before)
    torch.testing.assert_close(rule(x).exp(), (z @ rule.head.weight.T + rule.head.bias).softmax(dim=1))
    torch.testing.assert_close(rule(x, readout="last-block").exp(), spoken[-1])
    torch.testing.assert_close(rule(x, readout="mean").exp(), torch.stack(spoken).mean(dim=0))


def test_posterior_head_is_equation_16(batch):
    rule = make_rule(head="posterior", sigma=0.8)
    x, _ = batch
    z, _ = rule.run_chain(x)
    W = rule.embedding.rows
    y_tilde = (z @ rule.head.weight.T + rule.head.bias).softmax(dim=1) @ W
    unnormalised = torch.stack([(-((y_tilde - u) ** 2).sum(dim=1) / (2 * 0.8**2)).exp() for u in W], dim=1)
    torch.testing.assert_close(rule(x).exp(), unnormalised / unnormalised.sum(dim=1, keepdim=True))


def test_several_chains_are_averaged_in_probability(batch):
    rule = make_rule()
    x, _ = batch
    torch.manual_seed(3)
    both = rule(x, noise=True, start="noise", chains=2)
    torch.manual_seed(3)
    apart = [rule(x, noise=True, start="noise").exp() for _ in range(2)]
    torch.testing.assert_close(both.exp(), (apart[0] + apart[1]) / 2)
    assert not torch.equal(apart[0], apart[1])


def test_each_block_alone_sees_no_label(batch):
    rule = make_rule()
    x, _ = batch
    alone = rule.each_block_alone(x)
    z = torch.zeros(BATCH, 4, dtype=torch.float64)
    for block, spoken in zip(rule.network, alone, strict=True):
        torch.testing.assert_close(spoken, block(z, x).log_softmax(dim=1))


@pytest.mark.slow
def test_chain_beats_its_first_block_where_blocks_see_different_things():
    """Each block reads one row of the digit; only the chain can put the rows together."""
    splits = data.load("digits")
    scale = splits.train.high

    class OneRow(nn.Module):
        def __init__(self, row):
            super().__init__()
            self.row = row
            self.block = DenoisingBlock(nn.Flatten(), 8, 10, 10, hidden=32)

        def forward(self, z, x):
            return self.block(z, x[:, 0, self.row])

    rule = NoPropDT([OneRow(row) for row in range(8)], ClassEmbedding.one_hot(10))
    optimizer = torch.optim.Adam(rule.parameters(), lr=5e-3)
    for epoch in range(12):
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(128):
            optimizer.zero_grad()
            rule.backward(splits.train.images[rows] / scale, splits.train.labels[rows])
            optimizer.step()
    rule.eval()
    x, y = splits.test.images / scale, splits.test.labels
    with torch.inference_mode():
        chain = (rule(x).argmax(dim=1) == y).double().mean().item()
        alone = (rule.each_block_alone(x).argmax(dim=2) == y).double().mean(dim=1)
    assert chain > alone[0].item() + 0.2
    assert chain > alone.max().item() + 0.1


@pytest.mark.parametrize("learned", [True, False])
def test_kept_activations_are_those_of_one_block(learned):
    """A block's graph is freed before the next block runs: what is saved at any time does not grow with T."""

    def most_saved(steps):
        blocks = [SmoothBlock(4).double() for _ in range(steps)]
        rule = NoPropDT(blocks, ClassEmbedding(torch.randn(CLASSES, 4, dtype=torch.float64), learned=learned))
        alive = peak = 0

        class Saved:
            def __init__(self, tensor):
                nonlocal alive, peak
                self.tensor, self.size = tensor, tensor.nbytes
                alive += self.size
                peak = max(peak, alive)

            def __del__(self):
                nonlocal alive
                alive -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            rule.backward(torch.randn(64, FEATURES, dtype=torch.float64), torch.randint(CLASSES, (64,)))
        return peak

    assert most_saved(8) == most_saved(2)


def test_nan_names_the_block_and_leaves_no_nan_behind(batch):
    rule = make_rule()
    with torch.no_grad():
        rule.network[1].net[0].weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="block 2"):
        rule.backward(*batch)
    assert all(p.grad is None or p.grad.isfinite().all() for p in rule.parameters())


def test_chain_starts_from_standard_normal_noise_or_its_mean():
    """z_0 itself, as the first block is given it."""
    seen = []

    class Listens(nn.Module):
        def forward(self, z, x):
            seen.append(z)
            return torch.zeros(len(x), CLASSES)

    rule = NoPropDT([Listens()], ClassEmbedding.one_hot(CLASSES))
    for start in ("noise", "zero"):
        rule(torch.zeros(100_000, 1), start=start)
    assert seen[0].mean().abs() < 5 / math.sqrt(300_000)
    assert (seen[0].std() - 1).abs() < 5 / math.sqrt(600_000)
    assert not seen[1].any()


@pytest.mark.parametrize("options", [{"start": "middle"}, {"readout": "best"}, {"chains": 0}], ids=str)
def test_wrong_ways_to_predict_are_refused(batch, options):
    with pytest.raises(UserError):
        make_rule()(batch[0], **options)


def test_what_a_block_draws_depends_on_no_other_block():
    """Noise and dropout of block 3 are the same however many numbers the blocks before it have drawn."""

    class Drawing(nn.Module):
        def __init__(self, greed):
            super().__init__()
            self.linear, self.greed, self.drawn = nn.Linear(3, 3), greed, None

        def forward(self, z, x):
            self.drawn = (z.detach().clone(), torch.rand(self.greed))
            return self.linear(z)

    seen = []
    for greed in (10, 1000):
        blocks = [Drawing(greed), Drawing(greed), Drawing(5)]
        rule = NoPropDT(blocks, ClassEmbedding.one_hot(3))
        torch.manual_seed(4)
        rule.backward(torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64))
        seen.append((*blocks[2].drawn, torch.rand(2)))
        assert not torch.equal(blocks[0].drawn[0], blocks[1].drawn[0])
    for few, many in zip(*seen, strict=True):
        assert torch.equal(few, many)


def test_every_step_draws_anew():
    rule = NoPropDT.for_classifier(nn.Linear(4, 3), torch.randn(8, 4), 3, steps=2)
    losses = {rule.backward(torch.ones(8, 4), torch.zeros(8, dtype=torch.int64)).item() for _ in range(4)}
    assert len(losses) == 4

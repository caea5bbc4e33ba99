"""Cascaded Forward: predictors against autograd and brute force, random blocks that stay, statistics of training."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.measure.memory import peak_live_bytes
from beyondprop.rules.local.cascaded_feedback import CascadedForwardDFA
from beyondprop.rules.local.cascaded_forward import CascadedForward
from beyondprop.rules.local.linear_predictor import LinearPredictor, sparsemax, sparsemax_loss

LOSSES = ["cross-entropy", "sparsemax", "squared"]


def features(count=11, size=6, classes=4):
    torch.manual_seed(0)
    return torch.randn(count, size).double(), torch.arange(count) % classes


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(6),
    )  # fmt: skip


def projected(z):
    """The nearest point of the simplex, by trying every support."""
    best = None
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            p = torch.zeros_like(z)
            inside = list(support)
            p[inside] = z[inside] + (1 - z[inside].sum()) / size
            distance = (p - z).square().sum()
            if (p >= 0).all() and (best is None or distance < best[0]):
                best = (distance, p)
    return best[1]


def test_sparsemax_is_the_projection_onto_the_simplex():
    torch.manual_seed(2)
    kinds = [torch.randn(40, 5), 0.1 * torch.randn(10, 5), 9 * torch.randn(10, 5), torch.ones(1, 5)]
    scores = torch.cat(kinds).double()
    found = sparsemax(scores)
    torch.testing.assert_close(found, torch.stack([projected(z) for z in scores]))
    assert (found == 0).any()
    assert (found > 0).sum(dim=1).max() == 5


def test_the_sparsemax_loss_is_the_one_whose_gradient_is_the_error():
    torch.manual_seed(3)
    scores, y = torch.randn(9, 5).double().requires_grad_(), torch.arange(9) % 5
    torch.autograd.gradcheck(lambda z: sparsemax_loss(z, y), scores)
    (gradient,) = torch.autograd.grad(sparsemax_loss(scores, y), scores)
    torch.testing.assert_close(gradient, (sparsemax(scores.detach()) - F.one_hot(y, 5)) / 9)
    sure = 10.0 * F.one_hot(y, 5).double()
    assert sparsemax_loss(sure, y) == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [False, True])
def test_the_written_gradient_is_autograds(loss, bias):
    x, y = features()
    predictor = LinearPredictor(6, 4, loss=loss, bias=bias).double()
    with torch.no_grad():
        for p in predictor.parameters():
            p.normal_()
    returned = predictor.backward(x, y)
    predictor.backward(x, y)
    written = {
        "cross-entropy": lambda z: F.cross_entropy(z, y),
        "sparsemax": lambda z: sparsemax_loss(z, y),
        "squared": lambda z: 0.5 * (z - F.one_hot(y, 4)).square().sum() / len(y),
    }[loss](F.linear(x, predictor.linear.weight, predictor.linear.bias))
    torch.testing.assert_close(returned, written.detach())
    expected = torch.autograd.grad(written, list(predictor.parameters()))
    for p, gradient in zip(predictor.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, 2 * gradient)


def test_the_gradient_makes_no_tensor_of_samples_by_features_by_classes():
    x, y = torch.randn(400, 400), torch.arange(400) % 50
    predictor = LinearPredictor(400, 50)
    most = sum(peak_live_bytes(lambda: predictor.backward(x, y), predictor).values())
    assert most < 400 * 400 * 50 * 4 / 10


@pytest.mark.parametrize("loss", LOSSES)
def test_predictors_learn_apart_and_are_added(loss):
    """Each from its own block's output, blocks in training mode; the mean of what they say."""
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 3
    rule = CascadedForward(network(), x, 3, loss=loss)
    found = rule.backward(x, y)
    expected, h = 0.0, x
    for block, mine in zip(rule.blocks, rule.predictors, strict=True):
        h = block(h)
        alone = LinearPredictor(h[0].numel(), 3, loss=loss)
        expected = expected + alone.backward(h, y)
        torch.testing.assert_close(mine.linear.weight.grad, alone.linear.weight.grad)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        for p in rule.predictors.parameters():
            p.normal_(std=0.05)
    rule.eval()
    h, said = x, 0.0
    for block, mine in zip(rule.blocks, rule.predictors, strict=True):
        h = block(h)
        z = mine(h)
        said = said + (sparsemax(z) if loss == "sparsemax" else z.softmax(dim=1))
    torch.testing.assert_close(rule(x).exp(), said / 2)


def test_random_blocks_stay_and_count_as_frozen():
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 3
    rule = CascadedForward(network(), x, 3)
    before = [p.clone() for p in rule.network.parameters()]
    optimizer = torch.optim.AdamW(rule.parameter_groups(), lr=0.1, weight_decay=0.1)
    rule.backward(x, y)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(rule.network.parameters(), before, strict=True))
    assert not any(p.requires_grad for p in rule.network.parameters())


@pytest.mark.parametrize("rule_class", [CascadedForward, CascadedForwardDFA])
def test_a_prediction_does_not_depend_on_its_company(rule_class):
    """The statistics are those of training, never of the test batch."""
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    rule = rule_class(network(), x, 3)
    for stage in rule.stages:
        rule.stage = stage
        rule.backward(x, y)
    with torch.no_grad():
        for p in rule.predictors.parameters():
            p.normal_(std=0.05)
    for mode in (True, False):  # in the middle of a training too
        rule.train(mode)
        moved = rule.network[3].running_mean.clone()
        alone = torch.cat([rule(x[i : i + 1]) for i in range(20)])
        torch.testing.assert_close(rule(x), alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(rule.network[3].running_mean, moved)


@pytest.mark.parametrize("rule_class", [CascadedForward, CascadedForwardDFA])
def test_norms_that_would_read_the_test_batch_are_refused(rule_class):
    blocks = network()
    blocks[3] = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(UnsupportedNetworkError, match="layer 3 normalises by the batch that is to be predicted"):
        rule_class(blocks, torch.zeros(2, 1, 8, 8), 3)


class Preactivated(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.inner = nn.Linear(features, features)

    def forward(self, x):
        return self.inner(x.relu_())


def test_blocks_that_begin_in_place_leave_predictors_their_features():
    """The second block overwrites what the first one gave, once its predictor has read it."""
    x, y = features()
    torch.manual_seed(1)
    blocks = nn.Sequential(nn.Linear(6, 7), Preactivated(7), Preactivated(7)).double()
    rule = CascadedForward(blocks, x.clone(), 4)
    with torch.no_grad():
        for p in rule.predictors.parameters():
            p.normal_()
        h1 = blocks[0](x)
        h2 = blocks[1].inner(h1.relu())
        h3 = blocks[2].inner(h2.relu())
    rule.backward(x, y)
    found = []
    for predictor, h in zip(rule.predictors, (h1, h2, h3), strict=True):
        alone = LinearPredictor(7, 4).double()
        alone.load_state_dict(predictor.state_dict())
        alone.backward(h, y)
        torch.testing.assert_close(predictor.linear.weight.grad, alone.linear.weight.grad)
        found.append(predictor(h).softmax(dim=1))
    torch.testing.assert_close(rule(x).exp(), torch.stack(found).mean(dim=0))
    for kept, h in zip(rule.features(x), (h1, h2, h3), strict=True):
        torch.testing.assert_close(kept, h)


def test_no_more_than_two_blocks_outputs_are_alive():
    x, y = torch.randn(400, 30), torch.arange(400) % 3
    peaks = []
    for depth in (3, 12):
        blocks = nn.Sequential(*(nn.Linear(30, 30) for _ in range(depth)))
        rule = CascadedForward(blocks, x, 3)
        rule.backward(x, y)
        runs = (lambda rule=rule: rule.backward(x, y), lambda rule=rule: rule(x))
        peaks += [peak_live_bytes(run, rule)["activations"] for run in runs]
    assert peaks[2] < 1.1 * peaks[0]  # but for a gradient of the predictors
    assert peaks[3] < 1.1 * peaks[1] + 12 * 400 * 3 * 4  # what each predictor says stays


def test_feedback_trains_blocks_first_and_then_predictors_with_still_blocks():
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 3
    rule = CascadedForwardDFA(network(), x, 3)
    rule.backward(x, y)
    assert all(p.grad is not None for p in [*rule.network.parameters(), *rule.auxiliary.parameters()])
    assert all(p.grad is None for p in rule.predictors.parameters())
    moved = rule.network[3].num_batches_tracked.clone()
    rule.zero_grad()
    rule.stage = "predictors"
    rule.backward(x, y)
    assert all(p.grad is None for p in [*rule.network.parameters(), *rule.auxiliary.parameters()])
    assert rule.network[3].num_batches_tracked == moved == 1
    alone = LinearPredictor(rule.shapes[0].numel(), 3)
    alone.backward(rule.blocks[0].eval()(x), y)
    torch.testing.assert_close(rule.predictors[0].linear.weight.grad, alone.linear.weight.grad)


def test_the_last_block_has_its_true_gradient_and_feedback_rows_have_length_one():
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 3
    rule = CascadedForwardDFA(network(), x, 3)
    rule.backward(x, y)
    found = [p.grad.clone() for p in rule.blocks[1].parameters()]
    loss = F.cross_entropy(rule.auxiliary(rule.blocks[1](rule.blocks[0](x).detach()).flatten(1)), y)
    for gradient, true in zip(found, torch.autograd.grad(loss, list(rule.blocks[1].parameters())), strict=True):
        torch.testing.assert_close(gradient, true)
    torch.testing.assert_close(rule.feedback_0.norm(dim=1), torch.ones(3))
    assert "feedback_0" in rule.state_dict()


def test_every_block_but_the_last_has_feedback_of_its_own():
    """Four blocks of one shape: e B_k / N at each one's output, differentiated inside it alone."""
    x, y = features()
    torch.manual_seed(1)
    blocks = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(6, 6), nn.Tanh()))).double()
    rule = CascadedForwardDFA(blocks, x, 4)
    rule.backward(x, y)
    outputs, h = [], x
    for k in range(4):
        h = torch.tanh(blocks[2 * k](h.detach()))
        outputs.append(h)
    error = (rule.auxiliary(h).softmax(dim=1) - F.one_hot(y, 4)).detach() / len(x)
    for k, output in enumerate(outputs[:-1]):
        layer, feedback = blocks[2 * k], getattr(rule, f"feedback_{k}")
        wanted = torch.autograd.grad(output, list(layer.parameters()), error @ feedback)
        for p, gradient in zip(layer.parameters(), wanted, strict=True):
            torch.testing.assert_close(p.grad, gradient)


def test_a_predictor_can_be_trained_from_stored_features():
    """Once features exist, predictors need neither the blocks nor each other."""
    x, y = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    rule = CascadedForward(network().eval(), x, 3).eval()
    stored = rule.features(x)
    for predictor, held in zip(rule.predictors, stored, strict=True):
        predictor.backward(held, y)
    apart = [p.grad.clone() for p in rule.predictors.parameters()]
    rule.zero_grad()
    rule.backward(x, y)
    for gradient, p in zip(apart, rule.predictors.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_errors_are_one_line():
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10) % 3
    with pytest.raises(UserError, match="loss must be"):
        CascadedForward(network(), x, 3, loss="hinge")
    x[0] = torch.nan
    with pytest.raises(NonFiniteError, match="block 1's predictor"):
        CascadedForward(network(), x[1:], 3).backward(x, y)


@pytest.mark.parametrize("loss", LOSSES)
def test_scores_of_any_size_have_probabilities_and_nan_has_an_error(loss):
    x, y = features()
    predictor = LinearPredictor(6, 4, loss=loss).double()
    for size in (1e8, 1e-8):
        scores = size * torch.eye(4)
        torch.testing.assert_close(predictor.probabilities(scores).sum(dim=1), torch.ones(4))
    coarse = 300 * torch.eye(4, dtype=torch.bfloat16)
    assert predictor.probabilities(coarse).dtype == torch.float32
    x[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="predictor"):
        predictor.backward(x, y)
    assert predictor.linear.weight.grad is None


def test_blocks_that_were_frozen_are_not_trained_without_a_word():
    blocks, x = network(), torch.randn(10, 1, 8, 8)
    CascadedForward(blocks, x, 3)
    with pytest.raises(UnsupportedNetworkError, match="frozen"):
        CascadedForwardDFA(blocks, x, 3)
    rule = CascadedForwardDFA(blocks.requires_grad_(), x, 3)
    with torch.no_grad():
        blocks[0].weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="block 1"):
        rule.backward(x, torch.arange(10) % 3)


def test_autocast_leaves_a_predictor_in_double_precision_alone():
    torch.manual_seed(0)
    predictor, x, y = LinearPredictor(6, 4).double(), torch.randn(9, 6).double(), torch.arange(9) % 4
    nn.init.normal_(predictor.linear.weight)
    alone = predictor.backward(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(predictor.backward(x, y), alone)

"""Mono-Forward, predsim and CwComp: their local losses against the formulas, sample by sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rules.local.class_channels import ClassChannels, GroupScores
from beyondprop.rules.local.mono_forward import LinearScores, MonoForward
from beyondprop.rules.local.predsim import PredictionAndSimilarity, PredSim, similarity


def perceptron(width=9, classes=3):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    ).double()


def convolutional():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 16, 3)
    ).double()


def batch(*shape):
    torch.manual_seed(2)
    return torch.randn(8, *shape).double(), torch.arange(8) % 3


def test_mono_forward_is_cross_entropy_by_a_projection_of_each_layer():
    """The output layer is the last hidden layer's projection, and trains it."""
    x, y = batch(10)
    rule = MonoForward(perceptron(), x, 3)
    assert len(rule.blocks) == 2
    loss = rule.backward(x, y)
    found = {name: p.grad.clone() for name, p in rule.named_parameters()}
    rule.zero_grad()
    h1 = torch.relu(rule.network[0](x))
    h2 = torch.relu(rule.network[2](h1.detach()))
    expected = F.cross_entropy(h1 @ rule.objectives[0].weight.T, y) + F.cross_entropy(rule.network[4](h2), y)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, p in rule.named_parameters():
        torch.testing.assert_close(found[name], p.grad, msg=name)


def test_mono_forward_of_one_hidden_layer_is_back_propagation():
    x, y = batch(10)
    network = nn.Sequential(nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    rule = MonoForward(network, x, 3)
    rule.backward(x, y)
    gradients = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
    for p, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, gradient)
    assert len(rule.objectives) == 0


def test_mono_forward_projects_all_of_an_image():
    x, y = batch(2, 8, 8)
    rule = MonoForward(convolutional(), x, 3)
    assert rule.objectives[0].weight.shape == (3, 6 * 36)
    h = torch.relu(rule.network[0](x))
    expected = F.cross_entropy(h.flatten(1) @ rule.objectives[0].weight.T, y)
    torch.testing.assert_close(LinearScores.forward(rule.objectives[0], h, y), expected)


def cosines(h):
    """Entry by entry."""
    rows = [row - row.mean() for row in h]
    return torch.stack([torch.stack([a @ b / (a.norm() * b.norm()) for b in rows]) for a in rows])


def test_similarity_is_the_matrix_of_centred_cosines():
    h, _ = batch(5)
    torch.testing.assert_close(similarity(h), cosines(h))
    torch.testing.assert_close(similarity(3 * h + 7), similarity(h))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_predsim_of_vectors(beta):
    h, y = batch(9)
    local = PredictionAndSimilarity(h.shape[1:], 3, beta).double()
    expected = torch.zeros(()).double()
    if beta > 0:
        target = cosines(F.one_hot(y, 3).double())
        expected = expected + beta * (cosines(h @ local.similar.weight.T) - target).square().mean()
    if beta < 1:
        expected = expected + (1 - beta) * F.cross_entropy(local.classify(h), y)
    torch.testing.assert_close(local(h, y), expected)


def test_predsim_of_images():
    """Similarity of the deviation of every channel over its places; prediction from an averaged image."""
    h, y = batch(7, 6, 5)
    local = PredictionAndSimilarity(h.shape[1:], 3, 0.3).double()
    seen = local.similar(h)
    deviations = torch.stack([torch.stack([channel.std() for channel in image]) for image in seen])
    target = cosines(F.one_hot(y, 3).double())
    expected = 0.3 * (cosines(deviations) - target).square().mean()
    expected = expected + 0.7 * F.cross_entropy(local.classify(F.adaptive_avg_pool2d(h, 5).flatten(1)), y)
    torch.testing.assert_close(local(h, y), expected)
    large = PredictionAndSimilarity(torch.Size([512, 16, 16]), 10, 0.5)
    assert large.classify.in_features == 512 * 4
    single = PredictionAndSimilarity(torch.Size([7, 1, 1]), 3, 0.5).double()
    assert single(h[:, :, :1, :1], y).isfinite()
    few = PredictionAndSimilarity(torch.Size([2, 6, 5]), 3, 1.0).double()
    expected = (cosines(few.similar(h[:, :2]).flatten(1)) - target).square().mean()
    torch.testing.assert_close(few(h[:, :2], y), expected)


def test_predsim_leaves_the_output_layer_a_block_of_its_own():
    x, y = batch(10)
    rule = PredSim(perceptron(), x, 3, beta=0.5)
    assert len(rule.blocks) == 3
    rule.backward(x, y)
    gradient = rule.network[4].weight.grad
    h = torch.relu(rule.network[2](torch.relu(rule.network[0](x)))).detach()
    error = torch.softmax(rule.network[4](h), dim=1) - F.one_hot(y, 3)
    torch.testing.assert_close(gradient, (error.T @ h / 8).detach())
    with pytest.raises(UserError, match="beta"):
        PredSim(perceptron(), x, 3, beta=1.5)


@pytest.mark.parametrize("goodness", ["square", "mean"])
@pytest.mark.parametrize("shape", [(7,), (7, 4, 5)])
def test_classes_share_the_channels_out(goodness, shape):
    """Seven channels for three classes: three, two and two, in order."""
    h, y = batch(*shape)
    local = GroupScores(7, 3, goodness).double()
    values = h.square() if goodness == "square" else h
    expected = torch.stack([values[:, a:b].flatten(1).mean(dim=1) for a, b in ((0, 3), (3, 5), (5, 7))], dim=1)
    torch.testing.assert_close(local.scores(h), expected)
    torch.testing.assert_close(local(h, y), F.cross_entropy(expected, y))


def test_class_channels_are_learned_without_further_parameters():
    x, y = batch(2, 8, 8)
    rule = ClassChannels(convolutional(), x, 3)
    assert not list(rule.objectives.parameters())
    rule.backward(x, y)
    gradient = rule.network[2].weight.grad.clone()
    h1 = torch.relu(rule.network[0](x)).detach()
    h2 = torch.relu(rule.network[2](h1))
    scores = torch.stack([h2[:, a:b].square().mean(dim=(1, 2, 3)) for a, b in ((0, 3), (3, 5), (5, 7))], dim=1)
    (expected,) = torch.autograd.grad(F.cross_entropy(scores, y), rule.network[2].weight)
    torch.testing.assert_close(gradient, expected)


def test_too_few_channels_are_refused_by_name():
    network = nn.Sequential(nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 2), nn.ReLU(), nn.Linear(2, 3))
    with pytest.raises(UnsupportedNetworkError, match=r"block 2 gives 2 channels.*3 classes"):
        ClassChannels(network, torch.zeros(2, 10), 3)
    with pytest.raises(UserError, match="goodness"):
        ClassChannels(perceptron(), batch(10)[0], 3, goodness="max")


def test_a_sample_without_deviation_has_a_finite_derivative():
    h = torch.randn(4, 5).double()
    h[0] = 3.0
    h.requires_grad_()
    similarity(h).sum().backward()
    assert h.grad.abs().max() < 1e5


def test_goodness_of_channels_keeps_its_digits_under_autocast():
    h, y = batch(7)
    local = GroupScores(7, 3, "square")
    square = h.float().square()
    expected = torch.stack([square[:, a:b].mean(dim=1) for a, b in ((0, 3), (3, 5), (5, 7))], dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = local.scores(h.float())
        torch.testing.assert_close(found, expected)  # the type too
        assert local(h.float(), y).dtype == torch.float32


def test_similarity_keeps_its_digits_under_autocast():
    """The products of directions are made in float32."""
    h, y = batch(9)
    local = PredictionAndSimilarity(h.shape[1:], 3, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        made = local.similar(h.float()).float()
        found = local(h.float(), y)
    target = cosines(F.one_hot(y, 3).float())
    torch.testing.assert_close(found, F.mse_loss(cosines(made), target), rtol=1e-5, atol=1e-6)


def test_predsims_classifiers_begin_at_nothing_and_blocks_too_large_to_match_are_refused():
    assert not PredictionAndSimilarity(torch.Size([9]), 3, 0.5).classify.weight.any()
    with pytest.raises(UnsupportedNetworkError, match=r"32,768 numbers a sample, shape \(8, 16, 16, 16\)"):
        PredictionAndSimilarity(torch.Size([8, 16, 16, 16]), 3, 0.5)
    PredictionAndSimilarity(torch.Size([8, 16, 16, 16]), 3, 0.0)

"""Feedback alignment and its kin against back-propagation, written-out formulas and finite differences."""

import pytest
import torch
from signal_networks import Doubled, Encoder, Residual, back_propagated, gradients, make
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError
from beyondprop.rules.signals.feedback_alignment import (
    FeedbackAlignment,
    KolenPollack,
    SignSymmetry,
    initial,
    transposed,
)

CHAINED = ["perceptron", "convolutional", "residual", "branching", "shared", "own attention"]


def with_forward_weights(rule):
    """The rule with each feedback weight set to the layer's own."""
    layers = dict(rule.network.named_modules())
    for name in rule.feedback:
        rule.feedback[name].data.copy_(layers[name].weight)
    return rule


@pytest.mark.parametrize("kind", [FeedbackAlignment, KolenPollack])
@pytest.mark.parametrize("name", CHAINED)
def test_with_the_transposed_weights_it_is_back_propagation(name, kind):
    network, x, y = make(name)
    expected = back_propagated(network, x, y)
    rule = with_forward_weights(kind(network, example=x))
    rule.backward(x, y)
    for parameter, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-5, atol=1e-7, msg=parameter)


def test_signals_are_those_of_the_formula():
    """Lillicrap et al.: delta_l = (B delta_{l+1}) f'(z_l), with a mean over the batch."""
    network, x, y = make("perceptron")
    rule = FeedbackAlignment(network, example=x)
    rule.backward(x, y)
    first, second, third = network[0], network[2], network[4]
    h1 = torch.tanh(first(x))
    h2 = torch.relu(second(h1))
    delta3 = (torch.softmax(third(h2), dim=1) - F.one_hot(y, 3)) / len(x)
    delta2 = (delta3 @ rule.feedback["4"]) * (h2 > 0)
    delta1 = (delta2 @ rule.feedback["2"]) * (1 - h1.square())
    for layer, delta, before in ((first, delta1, x), (second, delta2, h1), (third, delta3, h2)):
        torch.testing.assert_close(layer.weight.grad, delta.T @ before)
        torch.testing.assert_close(layer.bias.grad, delta.sum(dim=0))
    assert list(rule.feedback) == ["2", "4"]  # nothing passes through the first


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv1d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), groups=2),
        nn.Conv2d(2, 3, 3, padding="same"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(2, 4, 2, groups=2, bias=False),
    ],
    ids=str,
)
def test_the_transpose_is_the_adjoint_of_the_layers_linear_map(layer):
    """<layer_B(u), v> = <u, transpose_B(v)> for any u and v, with B in the place of the weight."""
    torch.manual_seed(0)
    layer = layer.double()
    dims = {nn.Linear: (6,), nn.Conv1d: (4, 9), nn.Conv3d: (2, 4, 5, 4)}
    shape = dims.get(type(layer), (layer.weight.shape[1] * getattr(layer, "groups", 1), 7, 8))
    u = torch.randn(3, *shape, dtype=torch.float64)
    b = torch.randn_like(layer.weight)
    image = torch.func.functional_call(
        layer, {"weight": b, **({"bias": torch.zeros_like(layer.bias)} if layer.bias is not None else {})}, u
    )
    v = torch.randn_like(image)
    torch.testing.assert_close((image * v).sum(), (u * transposed(layer, b, v, u.shape)).sum())


def test_feedback_is_fixed_random_and_drawn_as_the_layer_draws():
    network, x, y = make("convolutional")
    rule = FeedbackAlignment(network, example=x)
    before = {name: rule.feedback[name].clone() for name in rule.feedback}
    assert set(before) == {"3", "6", "9", "12"}
    assert not list(rule.feedback.parameters())
    for _ in range(3):
        rule.backward(x, y)
    for name, weight in before.items():
        layer = dict(network.named_modules())[name]
        assert torch.equal(rule.feedback[name], weight)
        assert weight.shape == layer.weight.shape
        assert not torch.equal(weight, layer.weight)
        bound = layer.weight.abs().max()
        assert 0.7 * bound < weight.abs().max() < 1.4 * bound
    torch.manual_seed(0)
    wide = nn.Linear(50, 4000)
    assert abs(initial(wide).std() / wide.weight.std() - 1) < 0.02


def test_angle_to_back_propagation_falls_below_a_right_angle():
    """The weights align with the feedback (Lillicrap et al., Figure 2b)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    teacher = torch.randn(10, 20)
    rule = FeedbackAlignment(network, torch.zeros(1, 20), nn.MSELoss())
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.05)
    for _ in range(300):
        x = torch.randn(64, 20)
        optimizer.zero_grad()
        loss = rule.backward(x, x @ teacher.T)
        optimizer.step()
    cosine = F.cosine_similarity(rule.feedback["1"].flatten(), network[1].weight.flatten(), dim=0)
    assert cosine > 0.3
    assert loss < 5


@pytest.mark.parametrize("magnitude", ["uniform", "fixed", "batch"])
def test_sign_symmetric_feedback_has_the_weights_signs(magnitude):
    network, x, y = make("perceptron")
    rule = SignSymmetry(network, example=x, magnitude=magnitude)
    weight = network[2].weight
    found = rule.feedback_for("2", weight)
    assert torch.equal(found.sign(), weight.sign())
    assert torch.equal(found, rule.feedback_for("2", weight))  # the same wherever a batch meets it
    rule.backward(x, y)
    assert torch.equal(found, rule.feedback_for("2", weight)) == (magnitude != "batch")
    sizes = found.abs()
    assert (sizes.max() - sizes.min() < 1e-7) == (magnitude == "uniform")
    with torch.no_grad():
        weight.neg_()
    assert torch.equal(rule.feedback_for("2", weight).sign(), weight.sign())  # of the present weight
    rule.backward(x, y)
    assert network[0].weight.grad.abs().sum() > 0


def test_uniform_magnitude_is_the_root_mean_square_of_an_initial_weight():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 30), nn.Linear(30, 2000))
    rule = SignSymmetry(network, example=torch.zeros(1, 10))
    found = rule.feedback_for("1", network[1].weight).abs().max().item()
    assert found == pytest.approx((30 * 3) ** -0.5, rel=0.02)  # U(-b, b) with b = 1/sqrt(30) has the variance b^2 / 3


def test_kolen_pollack_difference_shrinks_by_the_decay():
    network, x, y = make("perceptron")
    rule = KolenPollack(network, example=x)
    rate, decay = 0.1, 0.3
    optimizer = torch.optim.SGD(rule.parameter_groups(), lr=rate, weight_decay=decay)
    before = rule.feedback["2"].detach() - network[2].weight.detach()
    for _ in range(5):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    after = rule.feedback["2"].detach() - network[2].weight.detach()
    torch.testing.assert_close(after, (1 - rate * decay) ** 5 * before, rtol=1e-4, atol=1e-6)


def test_kolen_pollack_accumulates_and_leaves_earlier_gradients():
    network, x, y = make("perceptron")
    rule = KolenPollack(network, example=x)
    rule.backward(x, y)
    once = gradients(rule)
    rule.backward(x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, 2 * once[name])
    assert torch.equal(rule.feedback["2"].grad, network[2].weight.grad)
    rule.feedback["2"].requires_grad_(False)
    rule.zero_grad()
    rule.backward(x, y)
    assert rule.feedback["2"].grad is None


def test_kolen_pollack_counts_a_tied_weight_once():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    network[4].weight = network[2].weight
    rule = KolenPollack(network, torch.zeros(2, 4))
    x, y = torch.randn(5, 4), torch.randint(4, (5,))
    rule.backward(x, y)
    once = gradients(rule)
    rule.backward(x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_kolen_pollacks_gradients_are_two_tensors():
    """Or clipping would scale the one that both share twice."""
    network, x, y = make("perceptron")
    rule = KolenPollack(network, example=x)
    rule.backward(x, y)
    assert rule.feedback["2"].grad.data_ptr() != network[2].weight.grad.data_ptr()


def test_kolen_pollack_keeps_earlier_gradients_when_a_batch_fails():
    network, x, y = make("perceptron")
    rule = KolenPollack(network, example=x)
    rule.backward(x, y)
    once = gradients(rule)
    with pytest.raises(UserError, match="label"):
        rule.backward(x, y + 7)
    assert all(torch.equal(gradient, once[name]) for name, gradient in gradients(rule).items())


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (Encoder(), "layers.0.self_attn is MultiheadAttention"),
        (nn.Sequential(nn.Linear(2, 3), Doubled(3)), "layer 1 is Doubled"),
        (nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.LSTM(3, 3))), "layer 1.0 is LSTM"),
        (nn.Sequential(nn.ReLU()), "no layer with weights"),
    ],
    ids=["attention", "user-written", "recurrent", "none"],
)
def test_what_it_cannot_train_is_refused_by_name(network, named):
    for kind in (FeedbackAlignment, SignSymmetry, KolenPollack):
        assert named in kind.supports(network)
        with pytest.raises(UnsupportedNetworkError, match=named):
            kind(network, example=torch.zeros(1, 2))


class AppliesItself(nn.Module):
    """Uses a matrix without a layer: its own, or that of a layer that is never called."""

    def __init__(self, own):
        super().__init__()
        self.into, self.idle, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.matrix = nn.Parameter(torch.randn(6, 6)) if own else None

    def forward(self, x):
        h = torch.tanh(self.into(x))
        return self.head(h @ (self.idle.weight if self.matrix is None else self.matrix))


@pytest.mark.parametrize(("own", "named"), [(True, "matrix"), (False, "idle.weight")])
def test_weight_transport_past_the_layers_is_refused(own, named):
    with pytest.raises(UnsupportedNetworkError, match=f"applies {named} by itself"):
        FeedbackAlignment(AppliesItself(own), torch.zeros(2, 4))


def test_what_was_frozen_can_be_trained_later():
    network, x, y = make("perceptron")
    network[0].requires_grad_(False)
    rule = FeedbackAlignment(network, example=x)
    assert not network[0].weight.requires_grad
    rule.backward(x, y)
    assert network[0].weight.grad is None
    network[0].requires_grad_(True)
    rule.backward(x, y)
    assert network[0].weight.grad.abs().sum() > 0


def test_unknown_magnitude_is_refused():
    with pytest.raises(UserError, match="uniform, fixed, batch"):
        SignSymmetry(Residual(3), example=torch.zeros(2, 3), magnitude="huge")


def test_frozen_layers_pass_the_feedback_on():
    network, x, y = make("perceptron")
    network[2].requires_grad_(False)
    rule = FeedbackAlignment(network, example=x)
    rule.backward(x, y)
    frozen = network[0].weight.grad.clone()
    network[2].requires_grad_(True)
    rule.zero_grad()
    rule.backward(x, y)
    assert torch.equal(network[0].weight.grad, frozen)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bf16_and_channels_last_follow_the_plain_signal(memory_format):
    network, x, y = make("convolutional")
    rule = FeedbackAlignment(network, example=x)
    rule.eval()
    rule.backward(x, y)
    plain = gradients(network)
    rule.zero_grad()
    rule.to(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16):
        rule.backward(x.to(memory_format=memory_format), y)
    for name, gradient in gradients(network).items():
        assert F.cosine_similarity(gradient.flatten(), plain[name].flatten(), dim=0) > 0.99, name


def test_kolen_pollack_refuses_weights_that_are_no_parameters(one_line):
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)))
    FeedbackAlignment(network, torch.zeros(2, 4)).backward(torch.randn(5, 4), torch.arange(5) % 3)
    with one_line(UnsupportedNetworkError, "layer 2 is made of other parameters"):
        KolenPollack(network, torch.zeros(2, 4))

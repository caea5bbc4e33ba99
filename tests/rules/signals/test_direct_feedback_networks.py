"""Which layers of a network direct feedback teaches, where each one's signal enters, and what is refused."""

import pytest
import torch
from signal_networks import Branching, Doubled, Encoder, back_propagated, error_of, gradients, make
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.signals.direct import Direct
from beyondprop.rules.signals.direct_feedback import DFA
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment
from beyondprop.rules.signals.target_projection import DRTP


def test_the_outputs_own_activation_is_no_hidden_point():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3), nn.Sigmoid())
    rule = DFA(network, torch.zeros(2, 4), nn.MSELoss())
    assert list(rule.feedback) == ["0"]
    x, y = torch.randn(5, 4), torch.rand(5, 3)
    loss = F.mse_loss(network(x), y)
    expected = torch.autograd.grad(loss, network[2].weight)[0]
    rule.backward(x, y)
    torch.testing.assert_close(network[2].weight.grad, expected)


def test_one_activation_module_may_serve_many_layers():
    """As in networks that make one ReLU and call it after every layer, the last one not among them."""

    class OneReLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.relu = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.c(self.relu(self.b(self.relu(self.a(x)))))

    torch.manual_seed(0)
    network = OneReLU()
    rule = DFA(network, torch.zeros(2, 4))
    assert list(rule.feedback) == ["a", "b"]
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    rule.backward(x, y)
    h = torch.relu(network.a(x))
    expected = torch.autograd.grad(h, network.a.weight, error_of(network, x, y) @ rule.feedback["a"])[0]
    torch.testing.assert_close(network.a.weight.grad, expected)


def test_one_activation_module_may_serve_the_output_too():
    """Then the hidden layer's signal enters where the next layer takes its input, here behind a pooling."""

    class Everywhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 6), nn.Linear(3, 3), nn.Tanh()

        def forward(self, x):
            return self.act(self.b(F.max_pool1d(self.act(self.a(x)), 2)))

    torch.manual_seed(0)
    network = Everywhere()
    rule = DFA(network, torch.zeros(2, 4))
    assert {name: tuple(rule.feedback[name].shape) for name in rule.feedback} == {"a": (3, 3)}
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    expected = back_propagated(network, x, y)
    rule.backward(x, y)
    torch.testing.assert_close(network.b.weight.grad, expected["b.weight"])


def test_a_hidden_activation_that_reaches_the_output_as_well_is_hidden():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 3), nn.Linear(3, 3), nn.Tanh()

        def forward(self, x):
            h = self.act(self.a(x))
            return h + self.b(h)

    torch.manual_seed(0)
    network = Past()
    rule = DFA(network, torch.zeros(2, 4))
    assert list(rule.feedback) == ["a"]
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    rule.backward(x, y)
    h = torch.tanh(network.a(x))
    expected = torch.autograd.grad(h, network.a.weight, error_of(network, x, y) @ rule.feedback["a"])[0]
    torch.testing.assert_close(network.a.weight.grad, expected)


@pytest.mark.parametrize("kind", [FeedbackAlignment, DFA, DRTP])
def test_a_compiled_network_is_taught_as_a_plain_one(kind):
    network, x, y = make("perceptron")
    rule = kind.for_classifier(network, x, 3)
    rule.backward(x, y)
    expected = gradients(network)
    network.zero_grad()
    rule.network = torch.compile(network, backend="aot_eager")
    rule(x)  # compiled for the first time, without hooks
    rule.backward(x, y)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[name])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.reentrant = False

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head(checkpoint(lambda h: torch.tanh(self.body(h)), h, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", [FeedbackAlignment, DFA, DRTP])
def test_gradient_checkpointing_is_refused_by_name(kind, reentrant):
    network = Checkpointed()
    rule = kind.for_classifier(network, torch.zeros(2, 4), 3)
    network.reentrant = reentrant
    with pytest.raises(UserError, match=r"layer body .*checkpointing"):
        rule.backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))


def test_example_leaves_no_trace():
    network, x, _ = make("convolutional")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    Direct(network, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert network.training


def test_transformer_layers_can_be_taken_whole():
    network, x, y = make("encoder")
    rule = DFA(network, example=x, whole=(nn.TransformerEncoderLayer,))
    assert list(rule.feedback) == ["words", "layers.0", "layers.1"]
    rule.backward(x, y)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_trains_a_small_transformer_encoder():
    """To tell which of seven words comes twice, of which a model without attention between positions knows nothing."""
    torch.manual_seed(0)
    network = Encoder(words=5, width=16)
    network.head = nn.Linear(16, 5)
    x = torch.stack([torch.randperm(5)[:3] for _ in range(512)])
    at = torch.randint(3, (512, 1))
    y = x.gather(1, at).squeeze(1)
    x = torch.cat([x, y[:, None]], dim=1)
    rule = DFA(network, example=x[:2])
    optimizer = torch.optim.Adam(rule.parameters(), lr=3e-3)
    for _ in range(12):
        for rows in torch.randperm(512).split(64):
            optimizer.zero_grad()
            rule.backward(x[rows], y[rows])
            optimizer.step()
    rule.eval()
    assert (rule(x).argmax(dim=1) == y).double().mean() > 0.8


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_unrolls_by_itself_is_refused_by_name(kind):
    network = nn.Sequential(nn.Linear(3, 3), nn.Sequential(kind(3, 4)))
    assert f"layer 1.0 ({kind.__name__})" in DFA.supports(network)
    with pytest.raises(UnsupportedNetworkError, match=f"{kind.__name__}Cell"):
        DFA(network, example=torch.zeros(2, 4, 3))


def test_no_layers_and_outputs_that_do_not_fit_are_refused():
    with pytest.raises(UnsupportedNetworkError, match="no layer with weights"):
        DFA(nn.Sequential(nn.ReLU()), example=torch.zeros(2, 4))

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(UnsupportedNetworkError, match="one tensor"):
        DFA(Pair(4, 3), torch.zeros(2, 4))

    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x.transpose(0, 1)))).mean(dim=0)

    with pytest.raises(UnsupportedNetworkError, match="the batch must come first"):
        DFA(TimeFirst(), torch.zeros(2, 5, 4))


def test_another_shape_or_way_than_the_examples_is_told():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    rule = DFA(network, torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match=r"layer 0 has shape \(2, 7, 7\), with `example` it had \(2, 6, 6\)"):
        rule.backward(torch.randn(4, 1, 9, 9), torch.tensor([0, 1, 2, 0]))

    class Forks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.a(x) if len(x) == 2 else self.b(x)))

    rule = DFA(Forks(), torch.zeros(2, 4))
    with pytest.raises(UserError, match="layer b was not evaluated"):
        rule.backward(torch.zeros(3, 4), torch.tensor([0, 1, 2]))


def test_not_finite_names_the_layer_and_adds_nothing():
    network, x, y = make("perceptron")
    rule = DFA(network, example=x)
    with torch.no_grad():
        network[2].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="layer 2"):
        rule.backward(x, y)
    assert all(p.grad is None for p in network.parameters())


def test_user_written_layers_and_branches_have_feedback():
    rule = DFA(nn.Sequential(nn.Linear(4, 6), Doubled(6), nn.ReLU(True), Branching()), example=torch.zeros(2, 4))
    assert list(rule.feedback) == ["0", "1", "3.right"]  # what two branches are joined to is one point
    assert rule.feedback["3.right"].shape == (3, 10)


def test_a_wrong_example_is_told_in_one_line():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"example of shape \(2, 5\) and torch.float32"):
        DFA(network, torch.zeros(2, 5))
    with pytest.raises(UserError, match="example must be a tensor"):
        DFA(network, [[0.0] * 3])


def test_a_recurrent_layer_is_taken_whole_where_that_is_asked_for():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    network, x = Reader(), torch.randn(5, 6, 3)
    with pytest.raises(UnsupportedNetworkError, match=r"whole=\(nn.RNN,\)"):
        DFA(network, x)
    DFA(network, x, whole=(nn.RNN,)).backward(x, torch.tensor([0, 1, 0, 1, 1]))
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())

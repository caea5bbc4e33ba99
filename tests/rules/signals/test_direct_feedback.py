"""Direct feedback alignment and its kin against the closed formula and brute force."""

import pytest
import torch
from signal_networks import NETWORKS, Branching, Doubled, Encoder, back_propagated, gradients, make
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.signals.direct import Direct
from beyondprop.rules.signals.direct_feedback import DFA, DirectKolenPollack, SignDFA
from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment
from beyondprop.rules.signals.target_projection import DRTP, TPSGD


def error_of(network, x, y):
    scores = network(x).detach()
    return (torch.softmax(scores, dim=1) - F.one_hot(y, 3)) / len(x)


def test_signals_are_those_of_the_closed_formula():
    """Nøkland, eq. 8: delta_l = (B_l e) f'(z_l), grad W_l = delta_l h_{l-1}^T."""
    network, x, y = make("perceptron")
    rule = DFA(network, example=x)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    h2 = torch.relu(network[2](h1))
    e = error_of(network, x, y)
    delta1 = (e @ rule.feedback["0"]) * (1 - h1.square())
    delta2 = (e @ rule.feedback["2"]) * (h2 > 0)
    for layer, delta, before in ((network[0], delta1, x), (network[2], delta2, h1), (network[4], e, h2)):
        torch.testing.assert_close(layer.weight.grad, delta.T @ before)
        torch.testing.assert_close(layer.bias.grad, delta.sum(dim=0))


def test_sign_of_the_error_is_sent_and_averaged():
    network, x, y = make("perceptron")
    rule = SignDFA(network, example=x)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    delta1 = (error_of(network, x, y).sign() / len(x) @ rule.feedback["0"]) * (1 - h1.square())
    torch.testing.assert_close(network[0].weight.grad, delta1.T @ x)
    assert torch.equal(network[4].weight.grad, back_propagated(network, x, y)["4.weight"]) or torch.allclose(
        network[4].weight.grad, error_of(network, x, y).T @ torch.relu(network[2](h1))
    )


def brute_force(network, x, signal_of):
    """Signals by the definition: a separate differentiation for each hidden activation of a sequential network."""
    found = {}
    h = x
    layers = [
        m
        for m in network
        if any(True for _ in m.parameters()) and not isinstance(m, nn.PReLU | nn.BatchNorm2d | nn.GroupNorm)
    ]
    groups, group = [], []
    for module in network:
        if module in layers and group:
            groups.append(group)
            group = []
        group.append(module)
    for group in groups:
        h = h.detach()
        points = [i for i, m in enumerate(group) if type(m).__module__ == "torch.nn.modules.activation"]
        at = points[0] if points else len(group) - 1
        for m in group[: at + 1]:
            h = m(h)
        name = str(list(network).index(group[0]))
        parameters = [p for m in group[: at + 1] for p in m.parameters()]
        gradients = torch.autograd.grad(h, parameters, signal_of(name, h), retain_graph=True)
        found |= dict(zip(parameters, gradients, strict=True))
        for m in group[at + 1 :]:
            h = m(h)
    return found


def test_convolutions_norms_and_activations_in_place_by_brute_force():
    network, x, y = make("convolutional")
    network.eval()  # statistics fixed, so that the network can be evaluated again
    rule = DFA(network, example=x)
    rule.backward(x, y)
    e = error_of(network, x, y)
    expected = brute_force(network, x, lambda name, h: (e @ rule.feedback[name].flatten(1)).view_as(h))
    assert len(expected) == 12
    for parameter, gradient in expected.items():
        torch.testing.assert_close(parameter.grad, gradient)
    # Before the pooling, and behind the first activation: the paper's place (Frenkel et al., Section 3).
    assert {name: tuple(rule.feedback[name].shape[1:]) for name in rule.feedback} == {
        "0": (4, 4, 4),
        "3": (6, 4, 4),
        "6": (4, 3, 3),
        "9": (4, 3, 3),
    }


def test_residual_blocks_are_taught_at_the_point_behind_them_alone():
    """No signal passes on along the skip connection."""
    network, x, y = make("residual")
    network.eval()
    rule = DFA(network, example=x)
    rule.backward(x, y)
    e = error_of(network, x, y)
    h0 = network[0](x)
    entry = list(rule.feedback)
    assert entry == ["0", "1.first", "1.second", "2.first", "2.second"]
    (expected,) = torch.autograd.grad(h0, network[0].weight, e @ rule.feedback["0"])
    torch.testing.assert_close(network[0].weight.grad, expected)
    block, h = network[1], h0.detach()
    inner = torch.relu(block.norm(block.first(h)))
    g = torch.autograd.grad(inner, [block.first.weight, block.norm.weight], e @ rule.feedback["1.first"])
    torch.testing.assert_close((block.first.weight.grad, block.norm.weight.grad), g)
    after = F.relu(h + block.second(inner.detach()))
    (expected,) = torch.autograd.grad(after, block.second.weight, e @ rule.feedback["1.second"])
    torch.testing.assert_close(block.second.weight.grad, expected)


def test_query_key_and_value_share_a_point():
    network, x, y = make("own attention")
    rule = DFA(network, example=x)
    rule.backward(x, y)
    assert list(rule.feedback) == ["input of query", "value", "out"]
    e = error_of(network, x, y)
    h = network.norm(x).detach()
    attended = F.scaled_dot_product_attention(network.query(h), network.key(h), network.value(h))
    weights = [layer.weight for layer in (network.query, network.key, network.value)]
    signal = (e @ rule.feedback["value"].flatten(1)).view_as(attended)
    for weight, expected in zip(weights, torch.autograd.grad(attended, weights, signal), strict=True):
        torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_receives_a_signal_and_the_last_layer_the_true_one(name):
    network, x, y = make(name)
    expected = back_propagated(network, x, y)
    rule = DFA(network, example=x)
    rule.backward(x, y)
    found = gradients(network)
    assert [n for n, g in found.items() if g is None] == []
    last = list(found)[-1].rpartition(".")[0]
    for n in (f"{last}.weight", f"{last}.bias"):
        if n in found:
            torch.testing.assert_close(found[n], expected[n])


def test_cells_share_their_feedback_over_time_and_nothing_is_unrolled():
    network, x, y = make("rnn")
    rule = DFA(network, example=x)
    assert list(rule.feedback) == ["cell"]
    rule.backward(x, y)
    e, signals = error_of(network, x, y), {}
    state = None
    for step in x.unbind(dim=1):
        state = network.cell(step, state.detach() if state is not None else None)
        for p, g in zip(
            network.cell.parameters(),
            torch.autograd.grad(state, network.cell.parameters(), e @ rule.feedback["cell"], retain_graph=True),
            strict=True,
        ):
            signals[p] = signals.get(p, 0) + g
    for parameter, expected in signals.items():
        torch.testing.assert_close(parameter.grad, expected)


def test_outputs_that_are_computed_from_one_another_count_once():
    """An LSTM cell makes its state from its memory: the state's signal reaches the memory inside the cell alone."""
    network, x, y = make("lstm")
    rule = DFA(network, example=x)
    rule.backward(x, y)
    e, signals = error_of(network, x, y), {}
    state = None
    for step in x.unbind(dim=1):
        state = network.cell(step, None if state is None else tuple(part.detach() for part in state))
        found = torch.autograd.grad(state[0], network.cell.parameters(), e @ rule.feedback["cell"])
        signals = {p: signals.get(p, 0) + g for p, g in zip(network.cell.parameters(), found, strict=True)}
    for parameter, expected in signals.items():
        torch.testing.assert_close(parameter.grad, expected)


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


def test_taught_autograds_signals_it_is_back_propagation_to_the_bit():
    """The mechanism alone: each point receives what back-propagation would bring there."""
    network, x, y = make("perceptron")
    expected = back_propagated(network, x, y)
    h1 = torch.tanh(network[0](x))
    h2 = torch.relu(network[2](h1))
    signals = torch.autograd.grad(F.cross_entropy(network[4](h2), y), (h1, h2))
    points = []
    with Direct(network, x).watch(points.append) as watch:
        loss = F.cross_entropy(network(x), y)
        watch.claim(loss).teach(torch.ones(()))
        for point, signal in zip(points, signals, strict=True):
            point.teach(signal)
    for parameter, gradient in gradients(network).items():
        assert torch.equal(gradient, expected[parameter]), parameter


def test_signs_of_a_position_are_averaged_over_all_positions():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(2, 7, 4)
    rule = SignDFA(network, x, lambda scores, y: F.cross_entropy(scores.flatten(0, 1), y.flatten()))
    sent = rule.signal_from(torch.randn(2, 7, 3))
    torch.testing.assert_close(sent.abs(), torch.full((2, 7, 3), 1 / 14))


def test_learned_feedback_is_that_of_a_weight_straight_to_the_scores():
    network, x, y = make("perceptron")
    rule = DirectKolenPollack(network, example=x)
    rule.backward(x, y)
    h1 = torch.tanh(network[0](x))
    straight = torch.zeros(6, 3, requires_grad=True)
    F.cross_entropy(network(x) + h1.detach() @ straight, y).backward()  # a connection past the layers, at zero
    torch.testing.assert_close(rule.feedback["0"].grad, straight.grad.T)
    assert [group["name"] for group in rule.parameter_groups()] == ["network", "feedback"]


def test_scores_a_position_teach_each_position():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.into(x)))

    torch.manual_seed(0)
    network = Tagger()
    x, y = torch.randn(2, 5, 4), torch.randint(3, (2, 5))
    for kind in (DFA, DirectKolenPollack):
        rule = kind(network, x, lambda scores, y: F.cross_entropy(scores.flatten(0, 1), y.flatten()))
        assert rule.feedback["into"].shape == (3, 6)
        network.zero_grad()
        rule.backward(x, y)
        flat = DFA(network, x.flatten(0, 1))
        flat.feedback = rule.feedback
        found = network.into.weight.grad.clone()
        network.zero_grad()
        flat.backward(x.flatten(0, 1), y.flatten())
        torch.testing.assert_close(found, network.into.weight.grad)
        rule.backward(x[:1, :3], y[:1, :3])  # sequences of another length are as good
    h = torch.tanh(network.into(x)).flatten(0, 1)
    scores = network.head(h)
    e = (torch.softmax(scores, dim=1) - F.one_hot(y.flatten(), 3)) / 10
    rule.zero_grad()
    rule.backward(x, y)
    torch.testing.assert_close(rule.feedback["into"].grad, e.T @ h)


class Scaled(nn.Module):
    """A loss that learns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, scores, y):
        return F.cross_entropy(self.scale * scores, y)


@pytest.mark.parametrize("kind", [FeedbackAlignment, DFA, DRTP, TPSGD])
def test_a_loss_with_parameters_learns_as_under_back_propagation(kind):
    network, x, y = make("perceptron")
    loss = Scaled()
    expected = torch.autograd.grad(loss(network(x), y), loss.scale)[0]
    kind.for_classifier(network, x, 3, loss=loss).backward(x, y)
    torch.testing.assert_close(loss.scale.grad, expected)


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

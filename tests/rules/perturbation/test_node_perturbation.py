"""Node, weight and activity perturbation: exact over all noise, unbiased on average, and equal to a slow reference."""

import itertools
import math

import pytest
import torch
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.networks.recurrent import GatedRNN, VanillaRNN
from beyondprop.rules.perturbation import node_perturbation, rollouts
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation

SQUARES = nn.MSELoss(reduction="none")


def vanilla(hidden=2, **options):
    torch.manual_seed(0)
    return VanillaRNN(2, hidden, 1, **options).double()


def sequences(batch=3, time=3, inputs=2, outputs=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randn(batch, time, outputs, generator=generator, dtype=torch.float64)


def gradients(rule):
    return {name: p.grad.clone() for name, p in rule.network.named_parameters() if p.grad is not None}


def finite_differences(network, loss, x, y, step=1e-5):
    """The gradient of the mean loss, each number of each parameter moved by itself."""
    found = {}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            found[name] = torch.zeros_like(parameter)
            for place in range(parameter.numel()):
                values = []
                for sign in (1, -1):
                    parameter.view(-1)[place] += sign * step
                    values.append(loss(network(x), y).mean())
                    parameter.view(-1)[place] -= sign * step
                found[name].view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return found


def all_signs(monkeypatch, numbers):
    """Let the samples of a step be all patterns of ±1 over its noise, so that their mean is the expectation."""
    table = torch.tensor(list(itertools.product((1.0, -1.0), repeat=numbers)), dtype=torch.float64)
    place = [0]

    def draw(shape, like, *, signs):
        assert signs
        size = torch.Size(shape[1:]).numel()
        columns = table[:, place[0] : place[0] + size]
        place[0] += size
        return columns.reshape(shape).to(like)

    monkeypatch.setattr(node_perturbation, "draw", draw)
    return {"samples": len(table), "noise": "signs"}


NODES = 3 * (2 + 1)  # of the network, one sequence of three steps


def test_nodes_over_all_noise_are_the_gradient(monkeypatch):
    network, (x, y) = vanilla(), sequences(batch=1)
    rule = NodePerturbation(network, SQUARES, kind="node", sigma=1e-3, **all_signs(monkeypatch, NODES))
    rule.backward(x, y)
    expected = finite_differences(network, SQUARES, x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_weights_over_all_noise_are_the_gradient(monkeypatch):
    network, (x, y) = vanilla(), sequences()
    count = sum(p.numel() for p in network.parameters())
    rule = NodePerturbation(network, SQUARES, kind="weight", sigma=1e-3, **all_signs(monkeypatch, count))
    rule.backward(x, y)
    expected = finite_differences(network, SQUARES, x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_bias_is_of_second_order_in_sigma(monkeypatch):
    """The gradient is that of the smoothed loss: halving σ quarters the distance."""
    network, (x, y) = vanilla(), sequences(batch=1)
    expected = finite_differences(network, SQUARES, x, y)["cell.state_weight"]
    distances = []
    for sigma in (0.1, 0.05):
        network.zero_grad()
        rule = NodePerturbation(network, SQUARES, kind="node", sigma=sigma, **all_signs(monkeypatch, NODES))
        rule.backward(x, y)
        distances.append(float((gradients(rule)["cell.state_weight"] - expected).norm()))
    assert math.log2(distances[0] / distances[1]) == pytest.approx(2, abs=0.1)


def test_whitened_activities_over_all_noise_are_the_gradient(monkeypatch):
    """Of one sequence: the covariance that whitening divides by is that of ANP's own bias."""
    monkeypatch.setattr(node_perturbation, "RIDGE", 1e-9)
    network, (x, y) = vanilla(), sequences(batch=1)
    rule = NodePerturbation(network, SQUARES, sigma=1e-3, whiten=True, **all_signs(monkeypatch, NODES))
    rule.backward(x, y)
    expected = finite_differences(network, SQUARES, x, y)
    for name, gradient in gradients(rule).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_activities_turn_each_nodes_gradient_by_less_than_a_right_angle(monkeypatch):
    """ANP's own property: E g_t = C ∂L/∂h_t, where C = E[Δ Δᵀ] / ⟨Δ²⟩ is positive, of mean eigenvalue 1."""
    network, (x, y) = vanilla(), sequences(batch=1)
    found = []
    monkeypatch.setattr(node_perturbation, "teach", lambda layer, calls: found.append((layer, calls)))
    rule = NodePerturbation(network, SQUARES, sigma=1e-4, **all_signs(monkeypatch, NODES))
    rule.backward(x, y)
    signals = next(calls for layer, calls in found if layer is network.cell)[0][1]
    # ∂L/∂h_t, and how h_t answers to earlier noise, by autograd, which the rule never asks.
    state, h = x.new_zeros(1, 2), []
    for u in x.unbind(1):
        h.append((network.cell(u, state)).detach().requires_grad_())
        state = torch.tanh(h[-1])
    jacobians = [
        torch.autograd.functional.jacobian(lambda a, t=t: network.cell(x[:, t], torch.tanh(a))[0], h[t - 1])[:, 0]
        for t in (1, 2)
    ]

    def tail(t, a):
        total, state = network.readout(torch.tanh(a)).sub(y[:, t]).square().sum(), torch.tanh(a)
        for later in range(t + 1, 3):
            state = torch.tanh(network.cell(x[:, later], state))
            total = total + network.readout(state).sub(y[:, later]).square().sum()
        return total / 3

    patterns = torch.tensor(list(itertools.product((1.0, -1.0), repeat=6)), dtype=torch.float64).view(-1, 3, 2)
    moved = patterns[:, 0]
    for t in range(3):
        if t > 0:
            moved = moved @ jacobians[t - 1].T + patterns[:, t]
        C = (moved[:, :, None] * moved[:, None]).mean(dim=0) / moved.square().mean()
        eigenvalues = torch.linalg.eigvalsh(C)
        assert eigenvalues.min() > 0
        assert float(eigenvalues.mean()) == pytest.approx(1)
        gradient = torch.autograd.grad(tail(t, h[t]), h[t])[0][0]
        torch.testing.assert_close(signals[t], C @ gradient, rtol=2e-3, atol=1e-5)
        assert signals[t] @ gradient > 0


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("kind", ["node", "weight"])
@pytest.mark.parametrize("network", [vanilla(3), GatedRNN(2, 3, 1).double()], ids=["vanilla", "gru"])
def test_unbiased_within_a_confidence_bound(network, kind, antithetic):
    x, y = sequences(time=4)
    expected = torch.cat([v.flatten() for v in finite_differences(network, SQUARES, x, y).values()])
    torch.manual_seed(3)
    drawn = []
    for _ in range(60):
        rule = NodePerturbation(network, SQUARES, kind=kind, sigma=1e-3, samples=100, antithetic=antithetic)
        network.zero_grad()
        rule.backward(x, y)
        drawn.append(torch.cat([gradient.flatten() for gradient in gradients(rule).values()]))
    means, errors = torch.stack(drawn).mean(dim=0), torch.stack(drawn).std(dim=0) / 60**0.5
    assert ((means - expected).abs() < 4.5 * errors + 1e-5).all()
    assert errors.max() < 0.5 * expected.abs().max()  # so that the bound says something


def reference(network, batch_of, noise, *, sigma, kind, credit):
    """The rule, sample by sample and step by step; `noise` is (samples, batch, time, units of h and y)."""
    x, y = batch_of
    W_in, W_rec, W_out = (
        p.detach() for p in (network.cell.input_weight, network.cell.state_weight, network.readout.weight)
    )
    D = network.decorrelate.weight.detach()
    samples, batch, time, _ = noise.shape
    hidden = len(W_rec)

    def rollout(example, moves):
        state, hs, ys, xs, losses = torch.zeros(hidden, dtype=x.dtype), [], [], [], []
        for t in range(time):
            xs.append(state)
            hs.append(W_in @ x[example, t] + W_rec @ state + moves[t, :hidden])
            state = D @ torch.tanh(hs[-1])
            ys.append(W_out @ state + moves[t, hidden:])
            losses.append(float((ys[-1] - y[example, t]).square().mean()))
        return hs, ys, [*xs[1:], state], xs, losses

    found = [torch.zeros_like(w) for w in (W_in, W_rec, W_out)]
    clean = [rollout(example, torch.zeros_like(noise[0, 0])) for example in range(batch)]
    squares = [[], []]  # of activity differences, by step, over samples and examples
    for t in range(time):
        noisy = [rollout(e, noise[s, e])[:2] for s in range(samples) for e in range(batch)]
        for part in (0, 1):
            of_step = [n[part][t] - clean[i % batch][part][t] for i, n in enumerate(noisy)]
            squares[part].append(torch.stack(of_step).square().mean())
    for example in range(batch):
        hs, ys, states, before, losses = rollout(example, torch.zeros_like(noise[0, 0]))
        for sample in range(samples):
            moves = noise[sample, example]
            noisy_hs, noisy_ys, _, _, noisy = rollout(example, moves)
            for t in range(time):
                last = time if credit == "future" else t + 1
                change = sum(noisy[s] - losses[s] for s in range(t, last)) / (samples * batch * time)
                own = (noisy[t] - losses[t]) / (samples * batch * time)
                if kind == "node":
                    at_h, at_y = moves[t, :hidden] / sigma**2, moves[t, hidden:] / sigma**2
                else:
                    at_h, at_y = noisy_hs[t] - hs[t], noisy_ys[t] - ys[t]
                    at_h, at_y = at_h / squares[0][t], at_y / squares[1][t]
                found[0] += change * torch.outer(at_h, x[example, t])
                found[1] += change * torch.outer(at_h, before[t])
                found[2] += own * torch.outer(at_y, states[t])
    return found


class Bypassed(nn.Module):
    """L = h2 - 3 h1 with h1 = x and h2 = h1: what noise in h1 does goes around h2 as well."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.second.weight)

    def forward(self, x):
        h = self.first(x)
        return self.second(h) - 3 * h


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"kind": "node"}, 1.0), ({"kind": "activity"}, -0.5), ({"kind": "activity", "whiten": True}, -0.5)],
)
def test_paths_around_a_layer_mislead_activity_differences_and_not_nodes(options, expected):
    """E[δL Δ] / E[Δ²] with Δ = ξ2 + ξ1 and δL = ξ2 - 2 ξ1, as the docs say; nodes give the gradient."""
    torch.manual_seed(0)
    network = Bypassed().double()
    rule = NodePerturbation(network, lambda z, _: z.squeeze(1), samples=2000, sigma=1e-3, noise="signs", **options)
    x = torch.ones(4, 1).double()
    rule.backward(x, x)
    assert network.second.weight.grad.item() == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("credit", ["future", "step"])
@pytest.mark.parametrize("kind", ["activity", "node"])
def test_batched_rollouts_equal_a_loop(monkeypatch, kind, credit):
    torch.manual_seed(0)
    network = VanillaRNN(2, 4, 3, decorrelate=True).double()
    with torch.no_grad():
        network.decorrelate.weight += 0.2 * torch.randn(4, 4)
    x, y = sequences(batch=2, time=3, outputs=3)
    noise = torch.randn(5, 2, 3, 7, dtype=torch.float64)

    def draw(shape, like, *, signs):
        del like, signs
        by_time = noise.transpose(1, 2)
        return by_time[..., :4] if shape[-1] == 4 else by_time[..., 4:]

    monkeypatch.setattr(node_perturbation, "draw", draw)
    NodePerturbation(network, SQUARES, kind=kind, sigma=0.1, samples=5, credit=credit).backward(x, y)
    expected = reference(network, (x, y), 0.1 * noise, sigma=0.1, kind=kind, credit=credit)
    for parameter, value in zip(
        (network.cell.input_weight, network.cell.state_weight, network.readout.weight), expected, strict=True
    ):
        torch.testing.assert_close(parameter.grad, value)


def test_credit_of_the_own_step_is_the_gradient_truncated_to_one_step(monkeypatch):
    """What the authors' code learns by, however noise goes on: no credit for what a state does later."""
    network, (x, y) = vanilla(), sequences(batch=1)
    options = all_signs(monkeypatch, NODES)
    rule = NodePerturbation(network, SQUARES, kind="node", sigma=1e-3, credit="step", **options)
    rule.backward(x, y)
    found = gradients(rule)
    network.zero_grad()
    state, losses = x.new_zeros(1, 2), []
    for t, u in enumerate(x.unbind(1)):
        state = network.advance(u, state.detach())
        losses.append((network.readout(state) - y[:, t]).square().mean())
    torch.stack(losses).mean().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["activity", "node"])
def test_windows_carry_all_rollouts_on(monkeypatch, kind):
    """Online, without steps in between, is the same sum as credit for the own step over the whole sequence."""
    network, (x, y) = vanilla(4), sequences(batch=2, time=4)
    options, taken = {"kind": kind, "samples": 3, "sigma": 0.1}, [0, 0]
    noise = torch.randn(3, 4, 2, 5, dtype=torch.float64)  # of the state and of the readout

    def draw(shape, like, *, signs):
        del like, signs
        readout = shape[-1] == 1
        start = taken[readout]
        taken[readout] += shape[1]
        return noise[:, start : taken[readout], :, 4:] if readout else noise[:, start : taken[readout], :, :4]

    monkeypatch.setattr(node_perturbation, "draw", draw)
    NodePerturbation(network, SQUARES, credit="step", **options).backward(x, y)
    whole = gradients_of(network)
    network.zero_grad()
    taken[:] = [0, 0]
    online = NodePerturbation(network, SQUARES, windows=4, **options)
    assert len(online.phases) == 4
    losses = [online.backward(x, y, phase) for phase in online.phases]
    for name, gradient in gradients_of(network).items():
        torch.testing.assert_close(gradient / 4, whole[name])
    torch.testing.assert_close(torch.stack(losses).mean(), SQUARES(network(x), y).mean().detach())
    assert online._states is None


def gradients_of(network):
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def test_a_batch_begins_without_the_state_of_the_last_one():
    network, (x, y) = vanilla(4), sequences(batch=2, time=4)
    rule = NodePerturbation(network, SQUARES, windows=2)
    rule.backward(x, y, rule.phases[0])  # and never its second window
    first = rule.backward(x, y, rule.phases[0])
    torch.testing.assert_close(first, SQUARES(network(x[:, :2]), y[:, :2]).mean().detach())


def test_decorrelation_has_its_own_direction_group_and_rate():
    torch.manual_seed(0)
    network = VanillaRNN(2, 4, 1, decorrelate=True).double()
    with torch.no_grad():
        network.decorrelate.weight += 0.3 * torch.randn(4, 4)
    x, y = sequences(batch=5, time=6)
    rule = NodePerturbation(network, SQUARES, decorrelation=0.02)
    groups = {group["name"]: group for group in rule.parameter_groups()}
    assert [id(p) for p in groups["decorrelation"]["params"]] == [id(network.decorrelate.weight)]
    assert groups["decorrelation"]["lr"] == 0.02
    rule.backward(x, y)
    D, state, states = network.decorrelate.weight.detach(), x.new_zeros(5, 4), []
    for u in x.unbind(1):
        state = network.advance(u, state)
        states += list(state.detach())
    expected = torch.zeros(4, 4, dtype=x.dtype)
    for s in states:
        outer = torch.outer(s, s)
        expected += (outer - torch.diag(outer.diagonal())) / len(states)
    torch.testing.assert_close(network.decorrelate.weight.grad, expected @ D)

    def correlation():
        values = torch.stack(states_of(network, x))
        products = values.T @ values / len(values)
        return (products - torch.diag(products.diagonal())).square().sum().item()

    before = correlation()
    optimizer = torch.optim.SGD([network.decorrelate.weight], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    assert correlation() < 0.7 * before


def states_of(network, x):
    state, found = x.new_zeros(len(x), network.hidden), []
    with torch.no_grad():
        for u in x.unbind(1):
            state = network.advance(u, state)
            found += list(state)
    return found


@pytest.mark.parametrize("kind", ["activity", "weight"])
def test_without_a_rate_decorrelation_stays(kind):
    network, (x, y) = vanilla(4, decorrelate=True), sequences()
    rule = NodePerturbation(network, SQUARES, kind=kind)
    rule.backward(x, y)
    assert network.decorrelate.weight.grad is None
    assert [group["name"] for group in rule.parameter_groups()] == ["network"]


@pytest.mark.parametrize("kind", ["activity", "node", "weight"])
@pytest.mark.parametrize("scalar", [False, True])
def test_any_feed_forward_network(kind, scalar):
    """On average the gradient, of the first layer as of the last, also where the loss is one number for the batch."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 2, 2]), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    x, y = torch.randn(4, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    loss = nn.CrossEntropyLoss() if scalar else None
    nn.CrossEntropyLoss()(network(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in network.parameters()])
    network.zero_grad()
    NodePerturbation(network, loss, kind=kind, sigma=1e-3, samples=20_000, noise="signs").backward(x, y)
    found = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert torch.cosine_similarity(found, expected, dim=0) > (0.9 if kind == "activity" else 0.97)
    assert found.norm() / expected.norm() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("in_time", [False, True])
def test_where_batch_norm_mixes_examples_the_estimate_is_the_gradient_on_average(in_time):
    """Noise of one example reaches the losses of all; with the losses of each alone the estimate would be biased."""
    torch.manual_seed(0)
    if in_time:
        network = vanilla(3)
        network.decorrelate = nn.BatchNorm1d(3).double()
        (x, y), loss = sequences(5, 2), SQUARES
    else:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
        x, y, loss = torch.randn(6, 3).double(), torch.arange(6) % 2, None
    rule = NodePerturbation(network, loss, kind="node", sigma=1e-4, samples=20_000, noise="signs", antithetic=True)
    rule.backward(x, y)
    found = torch.cat([p.grad.flatten() for p in network.parameters()])
    network.zero_grad()
    (nn.CrossEntropyLoss() if loss is None else nn.MSELoss())(network(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert (found - expected).norm() < 0.15 * expected.norm()  # otherwise 0.25 and more


def test_all_rollouts_have_one_dropout_mask():
    """Otherwise losses would differ by much more than the noise explains."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 50), nn.Dropout(0.5), nn.Linear(50, 5))
    rule = NodePerturbation(network, kind="node", sigma=1e-4, samples=4)
    rule.backward(torch.randn(8, 20), torch.randint(5, (8,)))
    assert network[0].weight.grad.norm() < 50


def test_statistics_move_by_the_clean_rollout():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    twin = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    twin.load_state_dict(network.state_dict())
    x, y = torch.randn(9, 4), torch.randint(2, (9,))
    twin(x)
    NodePerturbation(network, sigma=1.0, samples=5).backward(x, y)
    torch.testing.assert_close(network[1].running_mean, twin[1].running_mean)
    torch.testing.assert_close(network[1].running_var, twin[1].running_var)


def test_signs_are_fair_and_of_one_size():
    torch.manual_seed(0)
    drawn = rollouts.draw((1000, 37), torch.zeros(1, dtype=torch.float64), signs=True)
    assert drawn.dtype == torch.float64
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean(dim=0).abs().max() < 4.5 / 1000**0.5
    products = drawn.T @ drawn / 1000
    assert (products - torch.eye(37)).abs().max() < 5 / 1000**0.5


def test_learns_to_copy():
    """Two symbols over a pause, below what is possible without memory."""
    from beyondprop.data.sequences import copying_memory

    torch.manual_seed(0)
    train, test = copying_memory(2, 1, train=32, test=200)
    network = VanillaRNN(10, 12, 10)
    rule = NodePerturbation(network, SQUARES, sigma=1e-3, samples=4, noise="signs")
    optimizer = torch.optim.Adam(rule.parameter_groups(), lr=0.02)
    for epoch in range(150):
        fresh = train.of_epoch(epoch)
        optimizer.zero_grad()
        rule.backward(fresh.images, fresh.labels)
        optimizer.step()
    with torch.no_grad():
        error = SQUARES(network(test.images), test.labels).mean()
    assert error < 0.8 * 0.0875 * 2 / 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "nodes"}, "kind must be one of 'activity', 'node', 'weight'"),
        ({"noise": "uniform"}, "noise must be one of"),
        ({"credit": "past"}, "credit must be one of"),
        ({"sigma": 0.0}, "sigma must be a number above 0"),
        ({"sigma": math.nan}, "sigma must be a number above 0"),
        ({"samples": 0}, "samples must be a whole number of at least 1"),
        ({"windows": 1.5}, "windows must be a whole number of at least 1"),
        ({"decorrelation": -1.0}, "decorrelation must be a number of at least 0"),
        ({"windows": 2}, "windows divide the time of a sequence network"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        NodePerturbation(nn.Linear(2, 2), **options)


def test_what_cannot_be_perturbed_is_named():
    with pytest.raises(UnsupportedNetworkError, match=r"layer 0 \(GRU\) runs over time inside itself"):
        NodePerturbation(nn.Sequential(nn.GRU(2, 2)))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(self.scale * x)

    with pytest.raises(UnsupportedNetworkError, match="parameter scale belongs to no innermost layer"):
        NodePerturbation(Scaled())
    NodePerturbation(Scaled(), kind="weight").backward(torch.randn(3, 2), torch.tensor([0, 1, 0]))
    attention = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
    with pytest.raises(UnsupportedNetworkError, match=r"layer self_attn .* perturb weights"):
        NodePerturbation(attention, SQUARES).backward(torch.randn(2, 3, 4), torch.randn(2, 3, 4))

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            z = self.layer(x)
            return z if z.sum().item() > 0 else -z

    with pytest.raises(UnsupportedNetworkError, match="evaluations cannot be batched"):
        NodePerturbation(Branching()).backward(torch.randn(3, 2), torch.tensor([0, 1, 0]))


def test_sequences_that_do_not_fit_are_refused():
    network, (x, y) = vanilla(), sequences()
    with pytest.raises(UserError, match="cannot be divided into 9 windows"):
        NodePerturbation(network, SQUARES, windows=9).backward(x, y, "window 1")
    with pytest.raises(UserError, match="one number an example"):
        NodePerturbation(network, lambda scores, y: (scores - y).square().mean(dim=0)).backward(x, y)
    x[1, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="the input"):
        NodePerturbation(network, SQUARES).backward(x, y)


def test_activations_in_place_change_nothing():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3))
        NodePerturbation(network, samples=3).backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        found.append(network[0].weight.grad)
    torch.testing.assert_close(found[0], found[1])


class TimeFirst(nn.Module):
    """Its first layer sees (time, batch, ...)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.first(x.transpose(0, 1)).mean(dim=0))


def test_layers_that_do_not_see_the_batch_first_are_told():
    x, y = torch.randn(4, 5, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(UserError, match="layer first gives 5 rows for 4 examples"):
        NodePerturbation(TimeFirst(), kind="node", samples=2).backward(x, y)
    NodePerturbation(TimeFirst(), nn.CrossEntropyLoss(), kind="node", samples=2).backward(x, y)


def taught(network, x, y, *, general, **options):
    """Gradients, state and loss of all windows, from the same draws either way."""
    network.zero_grad()
    torch.manual_seed(5)
    rule = NodePerturbation(network, SQUARES, sigma=0.1, **options)
    with pytest.MonkeyPatch.context() as patch:
        if general:
            patch.setattr(rollouts, "treats_rows_alike", lambda network: False)
        losses = [rule.backward(x, y, phase) for phase in rule.phases]
    return {**gradients(rule), "loss": torch.stack(losses)}


WAYS = {
    "activities": {"samples": 3},
    "nodes": {"kind": "node", "samples": 1, "credit": "step"},
    "pairs": {"samples": 2, "antithetic": True, "noise": "signs"},
    "online": {"windows": 5, "samples": 2},
    "explained": {"whiten": True, "explain": True, "samples": 9},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("decorrelate", [False, True], ids=["", "decorrelated"])
@pytest.mark.parametrize("kind", [VanillaRNN, GatedRNN])
def test_rollouts_in_rows_equal_those_by_vmap(kind, decorrelate, options):
    torch.manual_seed(0)
    network = kind(2, 4, 3, decorrelate=decorrelate, bias=True).double()
    if decorrelate:
        options = {**options, "decorrelation": 0.1}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    x, y = sequences(batch=3, time=5, outputs=3)
    assert rollouts.treats_rows_alike(network)
    fast, general = (taught(network, x, y, general=general, **options) for general in (False, True))
    assert fast.keys() == general.keys()
    assert len(fast) == len(list(network.parameters())) + 1
    for name, value in general.items():
        torch.testing.assert_close(fast[name], value)


class Rectified(VanillaRNN):
    """Another network than the one whose fast way it inherits."""

    def advance(self, u, state):
        return self.decorrelate(torch.relu(self.cell(u, state)))


def hooked(network):
    network.cell.register_forward_hook(lambda module, args, output: 2 * output)
    return network


def replaced(network):
    network.readout = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    return network


@pytest.mark.parametrize(
    "made", [lambda: Rectified(2, 4, 1).double(), lambda: hooked(vanilla(4)), lambda: replaced(vanilla(4))]
)
def test_a_network_of_the_users_is_run_as_it_is(made):
    torch.manual_seed(0)
    network, (x, y) = made(), sequences()
    loss = NodePerturbation(network, SQUARES, sigma=1e-3).backward(x, y)
    torch.testing.assert_close(loss, SQUARES(network(x), y).mean().detach())


@pytest.mark.parametrize("network", [nn.Linear(3, 2), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))])
def test_layers_learn_by_their_own_product(network):
    """By hand where a layer is linear, and by autograd where its weight is made of others."""
    x, signal = torch.randn(5, 3), torch.randn(5, 2)
    rollouts.teach(network, [((x,), signal), ((x + 1,), signal)])
    expected = torch.autograd.grad([network(x), network(x + 1)], list(network.parameters()), [signal, signal])
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_training_goes_on_from_the_middle_of_a_sequence():
    """The states of all rollouts are saved between windows, and no longer once a batch is over."""
    network, (x, y) = vanilla(4), sequences(batch=2, time=4)
    rule = NodePerturbation(network, SQUARES, windows=2, samples=3)
    rule.backward(x, y, "window 1")
    saved = {name: value.clone() for name, value in rule.state_dict().items()}
    twin = NodePerturbation(vanilla(4), SQUARES, windows=2, samples=3)
    twin.load_state_dict(saved)
    for each in (rule, twin):
        each.zero_grad()
        torch.manual_seed(7)
        each.backward(x, y, "window 2")
    for name, gradient in gradients_of(network).items():
        assert torch.equal(gradient, twin.network.get_parameter(name).grad)
    assert not any("_states" in name for name in rule.state_dict())
    rule.load_state_dict(saved)
    rule.load_state_dict(twin.state_dict())
    assert rule._states is None


def test_a_dimension_as_long_as_the_batch_is_not_taken_for_it():
    """Four steps of four examples: the noise of a step would be credited with the loss of an example."""
    x, y = torch.randn(4, 4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(UserError, match="layer first gives 4 rows for 4 examples, and for one more as many"):
        NodePerturbation(TimeFirst(), kind="node", samples=2).backward(x, y)
    NodePerturbation(TimeFirst(), nn.CrossEntropyLoss(), kind="node", samples=2).backward(x, y)

"""Rollouts of node perturbation: batched they equal a slow reference, and windows carry them on."""

import pytest
import torch
from perturbed_sequences import SQUARES, gradients, sequences, vanilla
from torch import nn

from beyondprop.networks.recurrent import GatedRNN, VanillaRNN
from beyondprop.rules.perturbation import node_perturbation, rollouts
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation


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


def test_activations_in_place_change_nothing():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3))
        NodePerturbation(network, samples=3).backward(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        found.append(network[0].weight.grad)
    torch.testing.assert_close(found[0], found[1])


def test_signs_are_fair_and_of_one_size():
    torch.manual_seed(0)
    drawn = rollouts.draw((1000, 37), torch.zeros(1, dtype=torch.float64), signs=True)
    assert drawn.dtype == torch.float64
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean(dim=0).abs().max() < 4.5 / 1000**0.5
    products = drawn.T @ drawn / 1000
    assert (products - torch.eye(37)).abs().max() < 5 / 1000**0.5


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

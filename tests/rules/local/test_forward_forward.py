"""Forward-Forward and SymBa against their formulas: gradients with respect to goodness, peers, scans and readouts."""

import pytest
import torch
from goodness_parts import CLASSES, batch, hidden, make
from torch import nn
from torch.nn import functional as F

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.local.forward_forward import ForwardForward
from beyondprop.rules.local.label_input import ClassPattern, Overlay
from beyondprop.rules.local.symba import SymBa


def slopes(rule, positive, negative, threshold=2.0):
    """Central differences of a pair's loss with respect to either goodness."""
    step = 1e-6
    found = []
    for dp, dn in ((step, 0), (0, step)):
        up, down = (rule.pair_loss(positive + s * dp, negative + s * dn, threshold) for s in (1, -1))
        found.append((up - down).item() / (2 * step))
    return found


@pytest.mark.parametrize(("plus", "minus"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (0.1, 0.5)])
def test_symba_pulls_equally_and_oppositely_where_ff_does_not(plus, minus):
    """dl/dG+ = -α s and dl/dG- = α s with s = σ(-α (G+ - G-)); FF: -σ(θ - G+) and σ(G- - θ)."""
    positive, negative = torch.tensor([plus]).double(), torch.tensor([minus]).double()
    alpha, theta = 4.0, 2.0
    pull = alpha * torch.sigmoid(-alpha * (positive - negative)).item()
    on_positive, on_negative = slopes(make(SymBa, alpha=alpha), positive, negative)
    assert on_positive == pytest.approx(-pull, rel=1e-4, abs=1e-9)
    assert on_negative == pytest.approx(pull, rel=1e-4, abs=1e-9)
    on_positive, on_negative = slopes(make(), positive, negative, theta)
    assert on_positive == pytest.approx(-torch.sigmoid(theta - positive).item(), rel=1e-4)
    assert on_negative == pytest.approx(torch.sigmoid(negative - theta).item(), rel=1e-4)
    if plus + minus != 2 * theta:  # symmetric about the threshold they agree
        assert abs(on_positive + on_negative) > 0.01


def test_swish_is_the_logistic_weighted_difference():
    rule = make(SymBa, alpha=6.0, pair_loss="swish")
    positive, negative = torch.tensor([1.0, 0.2]).double(), torch.tensor([0.5, 0.9]).double()
    wrong = -6 * (positive - negative)
    torch.testing.assert_close(rule.pair_loss(positive, negative, 0.0), (wrong * torch.sigmoid(wrong)).mean())


@pytest.mark.parametrize("goodness", ["sum", "mean"])
def test_a_step_is_that_of_the_formula(goodness):
    """Written out sample by sample: normalised inputs, goodness, the loss, with the blocks detached."""
    x, y = batch()
    rule = make(goodness=goodness, threshold=0.7)
    torch.manual_seed(5)
    wrong = (y + torch.randint_like(y, 1, CLASSES)) % CLASSES
    torch.manual_seed(5)
    loss = rule.backward(x, y)
    found = [p.grad.clone() for p in rule.network.parameters()]
    rule.zero_grad()
    total = 0.0
    inputs = [[marked(s, label) for s, label in zip(x, labels, strict=True)] for labels in (y, wrong)]
    for layer in (rule.network[0], rule.network[2]):
        terms = []
        units = layer.out_features
        theta = 0.7 * (units if goodness == "sum" else 1)
        for sign, samples in zip((-1, 1), inputs, strict=True):
            for i, sample in enumerate(samples):
                h = torch.relu(layer(sample / sample.square().mean().sqrt()))
                g = h.square().sum() if goodness == "sum" else h.square().mean()
                terms.append(F.softplus(sign * (g - theta)))
                samples[i] = h.detach()
        part = torch.stack(terms).sum() / len(x)
        part.backward()
        total = total + part.detach()
    torch.testing.assert_close(loss, total)
    for p, gradient in zip(rule.network.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, p.grad)


def marked(sample, label):
    sample = sample.clone()
    sample[:CLASSES] = 0.0
    sample[label] = 1.0
    return sample


def test_every_class_is_tried_and_goodness_added():
    x, _ = batch()
    for skip_first in (True, False):
        rule = make(skip_first=skip_first)
        expected = torch.zeros(len(x), CLASSES).double()
        for i, sample in enumerate(x):
            for label in range(CLASSES):
                h = marked(sample, label)
                for k, layer in enumerate((rule.network[0], rule.network[2])):
                    h = torch.relu(layer(h / h.square().mean().sqrt()))
                    if k or not skip_first:
                        expected[i, label] += h.square().sum()
        torch.testing.assert_close(rule(x), expected, rtol=1e-5, atol=1e-6)


LABELS = {
    "overlay": (lambda: Overlay(CLASSES, amplitude=2.5), [12 - CLASSES, CLASSES]),
    "pattern": (lambda: ClassPattern(CLASSES, (1, 3, 4), learned=True, scale=2.0), [12, 12]),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("kind", LABELS)
def test_one_product_of_the_first_layer_serves_all_classes(kind, normalise, bias):
    """Scans and gradients of images equal those of a first layer that is met by every class's whole input."""
    x, y = torch.randn(5, 1, 3, 4).double(), torch.arange(5) % CLASSES
    make_label, columns = LABELS[kind]
    first = nn.Linear(12 if kind == "overlay" else 24, 6, bias=bias).double()
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), *hidden(inputs=6, depth=1), nn.Tanh())
    rule = SymBa(network, x, CLASSES, label=make_label(), normalise=normalise)

    def both():
        rule.zero_grad()
        torch.manual_seed(3)
        loss = rule.backward(x, y)
        return [rule(x), loss, *(p.grad.clone() for p in rule.parameters())]

    found = []
    first.register_forward_hook(lambda _, inputs, __: found.append(len(inputs[0])))
    whole = both()  # a hook wants to see every input
    assert found == [10, 5 * CLASSES]
    first._forward_hooks.clear()
    torch.testing.assert_close(both(), whole)
    products = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True)
    with products as seen, torch.no_grad():
        rule(x)
    names = ("aten::mm", "aten::addmm")
    shapes = [event.input_shapes[event.name == "aten::addmm"] for event in seen.events() if event.name in names]
    assert shapes == [[5, columns[0]], [CLASSES, columns[1]], [5 * CLASSES, 6]]


def test_lengths_are_hidden_from_the_next_block():
    """A block's output twice as large changes nothing behind it."""
    x, y = batch()
    found = []
    for scale in (1.0, 2.0):
        rule = make()
        with torch.no_grad():
            rule.network[0].weight *= scale
            rule.network[0].bias *= scale
        torch.manual_seed(3)
        rule.backward(x, y)
        found.append(rule.network[2].weight.grad)
    torch.testing.assert_close(*found)


def test_peer_normalisation_is_the_spread_of_mean_activities():
    x, y = batch()
    plain, rule = make(), make(peer=0.5)
    torch.manual_seed(3)
    without = plain.backward(x, y)
    torch.manual_seed(3)
    loss = rule.backward(x, y)
    h = torch.stack([marked(s, label) for s, label in zip(x, y, strict=True)])
    extra = 0.0
    for k, layer in enumerate((rule.network[0], rule.network[2])):
        h = torch.relu(layer(h / h.square().mean(dim=1, keepdim=True).sqrt()))
        average = 0.1 * h.mean(dim=0)
        extra += (average - average.mean()).square().mean()
        torch.testing.assert_close(getattr(rule, f"activity_{k}"), average.detach())
    torch.testing.assert_close(loss - without, 0.5 * extra.detach())
    assert "activity_1" in rule.state_dict()


def test_one_pass_readout_learns_from_directions_of_unlabelled_inputs():
    x, y = batch()
    rule = make(readout="softmax", network=hidden(depth=3))
    rule.backward(x, y)
    h = x.clone()
    h[:, :CLASSES] = 1 / CLASSES
    seen = []
    for layer in (rule.network[0], rule.network[2], rule.network[4]):
        h = torch.relu(layer(h / h.square().mean(dim=1, keepdim=True).sqrt()))
        seen.append(h / h.square().mean(dim=1, keepdim=True).sqrt())
    features = torch.cat(seen[1:], dim=1).detach()
    error = (torch.full((len(x), CLASSES), 1 / CLASSES) - F.one_hot(y, CLASSES)).double() / len(x)
    torch.testing.assert_close(rule.classifier.weight.grad, error.T @ features)
    torch.testing.assert_close(rule(x), rule.classifier(features))
    torch.testing.assert_close(rule(x, readout="scan"), rule.scan(x))
    with pytest.raises(UserError, match='readout="softmax"'):
        make()(x, readout="softmax")


def test_the_readout_is_the_last_stage():
    x, y = batch()
    rule = make(readout="softmax", order="one-by-one")
    assert rule.stages == ("block 1", "block 2", "readout")
    rule.stage = "readout"
    rule.backward(x, y)
    assert rule.classifier.weight.grad is not None
    assert all(p.grad is None for p in rule.network.parameters())


def test_thresholds_fit_what_activations_reach():
    network = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU())
    rule = ForwardForward(network, batch()[0].float(), CLASSES)
    assert rule.thresholds == [0.25 * 6, 5.0]
    assert ForwardForward(network, batch()[0].float(), CLASSES, goodness="mean", threshold=2.0).thresholds == [2, 2]


def test_convolutions_and_statistics():
    """Images, any goodness; batch norm sees both passes as one batch."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % CLASSES
    rule = SymBa(network, x, CLASSES, negatives="hard", readout="softmax", peer=0.1)
    rule.backward(x.contiguous(memory_format=torch.channels_last), y)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rule.parameters())
    assert network[1].num_batches_tracked == 1
    assert rule.eval()(x, readout="scan").shape == (8, CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goodness": "max"}, "goodness"),
        ({"negatives": "easy"}, "negatives"),
        ({"readout": "vote"}, "readout"),
        ({"peer": -1.0}, "peer"),
        ({"order": "backwards"}, "order"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_what_symba_has_not_is_refused():
    for options, message in (({"alpha": 0.0}, "alpha"), ({"pair_loss": "hinge"}, "pair_loss")):
        with pytest.raises(UserError, match=message):
            make(SymBa, **options)
    with pytest.raises(UserError, match="no threshold"):
        make(SymBa, threshold=1.0)


def test_nan_under_the_label_is_seen_and_a_linear_classifier_is_refused():
    x, y = batch()
    x[2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="input"):
        make().backward(x, y)
    with pytest.raises(UnsupportedNetworkError, match="hidden layers"):
        ForwardForward.for_classifier(nn.Sequential(nn.Linear(12, 4)), batch()[0].float(), 4)


def test_symba_counts_every_block_by_its_mean_square():
    x, _ = batch()
    rule, expected = make(SymBa), torch.zeros(len(x), CLASSES).double()
    for label in range(CLASSES):
        h = torch.stack([marked(sample, label) for sample in x])
        for layer in (rule.network[0], rule.network[2]):
            h = torch.relu(layer(h / h.square().mean(dim=1, keepdim=True).sqrt()))
            expected[:, label] += h.square().mean(dim=1)
    torch.testing.assert_close(rule(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["together", "one-by-one"])
def test_the_readout_sees_what_predictions_see(order):
    """Statistics that were noted, and no unit dropped."""
    network = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5), nn.ReLU())
    x, y = (part.float() if part.is_floating_point() else part for part in batch())
    rule = ForwardForward(network, x, CLASSES, readout="softmax", order=order)
    rule.stage = rule.stages[-1]
    with torch.no_grad():
        rule.classifier.weight.normal_()
    rule.eval()
    expected = F.cross_entropy(rule(x), y)
    rule.train()
    seen = []
    rule.classifier.register_forward_hook(lambda _m, _args, scores: seen.append(F.cross_entropy(scores, y)))
    rule.backward(x, y)
    if order == "one-by-one":
        torch.testing.assert_close(seen[0].detach(), expected.detach())
        assert network[1].num_batches_tracked == 0
    else:  # once, by the two passes, before the readout is made
        assert network[1].num_batches_tracked == 1
    assert network[3].training


def test_activities_stay_whole_when_a_step_is_not():
    x, y = batch()
    rule = make(peer=0.1)
    rule.backward(x, y)
    kept = rule.activity_0.clone()
    with torch.no_grad():
        rule.network[0].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="block 1"):
        rule.backward(x, y)
    assert torch.equal(rule.activity_0, kept)


@pytest.mark.parametrize(
    ("options", "message"), [({"label": "overlay"}, "LabelInput"), ({"threshold": -1.0}, "threshold")]
)
def test_labels_and_thresholds_of_another_kind_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)

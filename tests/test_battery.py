"""What every stepped rule must do, run over every catalogue entry that classifies. Nothing here knows one by name."""

import copy
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from beyondprop import data
from beyondprop.catalogue import SYSTEMS
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import Rule

RULES = {system.id: kind for system in SYSTEMS if issubclass(kind := system.load(), Rule) and kind.classifies}


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def rule_class(request):
    return request.param


@pytest.fixture(scope="module")
def digits():
    splits = data.load("digits")
    return [(part.images.flatten(1) / part.high, part.labels) for part in splits]


def classifier():
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 10))


def make(rule_class, digits, seed=0):
    torch.manual_seed(seed)
    return rule_class.for_classifier(classifier(), digits[0][0][:4], 10)


def make_optimizer(rule):
    return torch.optim.Adam(rule.parameter_groups(), lr=3e-3, fused=True)


def step(rule, optimizer, x, y):
    for phase in rule.phases:
        optimizer.zero_grad()
        loss = rule.backward(x, y, phase)
        optimizer.step()
    return loss


def train(rule, optimizer, digits, *, epochs, enough):
    """Train at most so many epochs of each stage, the last one until it is enough; return the held-out accuracy."""
    x, y = digits[0]
    for stage in rule.stages:
        rule.stage = stage
        for _ in range(epochs):
            rule.train()
            for rows in torch.randperm(len(x)).split(64):
                step(rule, optimizer, x[rows], y[rows])
            if stage == rule.stages[-1] and (accuracy := accuracy_of(rule, *digits[1])) > enough:
                return accuracy
    return accuracy


def predict(rule, x):
    rule.eval()
    with torch.inference_mode():
        return rule(x)


def accuracy_of(rule, x, y):
    return (predict(rule, x).argmax(dim=1) == y).double().mean().item()


def test_learns_held_out_digits(rule_class, digits):
    rule = make(rule_class, digits)
    # One in ten is chance. Linear predictors of random features stay below what learned features reach; rules that only
    # agree with the gradient learn more slowly.
    enough = 0.8 if rule_class.follows_gradient else 0.5
    assert train(rule, make_optimizer(rule), digits, epochs=6, enough=enough) > enough


def test_returns_a_detached_scalar_loss_that_falls(rule_class, digits):
    rule = make(rule_class, digits)
    optimizer = make_optimizer(rule)
    x, y = digits[0][0][:128], digits[0][1][:128]
    losses = [step(rule, optimizer, x, y) for _ in range(40)]
    assert losses[0].shape == ()
    assert not losses[0].requires_grad
    assert sum(losses[-5:]) < sum(losses[:5])


def test_updates_every_parameter_it_claims(rule_class, digits):
    rule = make(rule_class, digits)
    optimizer = make_optimizer(rule)
    claimed = {id(p) for group in rule.parameter_groups() for p in group["params"]}
    assert claimed == {id(p) for p in rule.parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in rule.named_parameters()}
    for stage in rule.stages:
        rule.stage = stage
        for _ in range(3):
            step(rule, optimizer, *(part[:64] for part in digits[0]))
    still = [name for name, p in rule.named_parameters() if p.requires_grad and torch.equal(p, before[name])]
    assert not still


def test_accumulates_until_the_gradient_is_cleared(rule_class, digits):
    rule = make(rule_class, digits).eval()  # without dropout the same seed gives the same gradient
    x, y = (part[:32] for part in digits[0])
    for phase in rule.phases:
        twice = []
        for repeats in (1, 2):
            rule.zero_grad()
            for _ in range(repeats):
                torch.manual_seed(5)
                rule.backward(x, y, phase)
            twice.append([p.grad.clone() for p in rule.parameters() if p.grad is not None])
        assert twice[0]
        for once, both in zip(*twice, strict=True):
            torch.testing.assert_close(both, 2 * once)


def test_descends(rule_class, digits):
    """A small step against `.grad` lowers the loss under the same random numbers: the sign is right."""
    if not rule_class.follows_gradient:
        pytest.skip("the rule does not claim to follow the gradient of its loss")
    rule = make(rule_class, digits).eval()
    x, y = (part[:128] for part in digits[0])
    torch.manual_seed(5)
    before = rule.backward(x, y, rule.phases[0])
    with torch.no_grad():
        for parameter in rule.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-4 * parameter.grad)
    torch.manual_seed(5)
    assert rule.backward(x, y, rule.phases[0]) < before


def test_leaves_the_users_network_as_it_was(rule_class, digits):
    network = classifier()
    weights = copy.deepcopy(network.state_dict())
    kinds = [type(m) for m in network.modules()]
    forward = type(network).forward
    network.train()
    rule = rule_class.for_classifier(network, digits[0][0][:4], 10)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in weights.items())
    optimizer = make_optimizer(rule)
    step(rule, optimizer, digits[0][0][:32], digits[0][1][:32])
    assert list(network.state_dict()) == list(weights)
    assert [type(m) for m in network.modules()] == kinds
    assert type(network).forward is forward
    assert "forward" not in vars(network)
    assert not network._forward_hooks
    assert network.training
    network(digits[0][0][:4])


def test_says_beforehand_what_it_supports(rule_class, digits):
    assert rule_class.supports_classifier(classifier(), digits[0][0][:4]) is None


def test_batch_statistics_move_once_a_step(rule_class, digits):
    """A network with batch norm, once in a step however often it is run, and not at all when the rule is made."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    rule = rule_class.for_classifier(network, digits[0][0][:4], 10)
    norms = [m for m in rule.modules() if isinstance(m, nn.BatchNorm1d)]
    assert all(m.num_batches_tracked == 0 for m in norms)
    for stage in rule.stages:
        rule.stage = stage
        step(rule, make_optimizer(rule), *(part[:32] for part in digits[0]))
    assert all(m.num_batches_tracked == 1 for m in norms)


def test_making_it_advances_no_generator_by_the_example(rule_class, digits):
    """The example batch is run without a trace: a larger one gives the same weights."""
    made = []
    for count in (2, 50):
        torch.manual_seed(2)
        network = classifier()
        made.append(rule_class.for_classifier(network, digits[0][0][:count], 10).state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_same_seed_same_weights(rule_class, digits):
    found = []
    for _ in range(2):
        rule = make(rule_class, digits, seed=3)
        optimizer = make_optimizer(rule)
        for _ in range(3):
            step(rule, optimizer, *(part[:64] for part in digits[0]))
        found.append(rule.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    other = make(rule_class, digits, seed=4).state_dict()
    assert any(not torch.equal(found[0][key], other[key]) for key in other)


def test_keeps_dtype_and_device(rule_class, digits):
    rule = make(rule_class, digits).double()
    optimizer = make_optimizer(rule)
    x, y = digits[0][0][:32].double(), digits[0][1][:32]
    step(rule, optimizer, x, y)
    assert all(p.dtype == torch.float64 and p.device == x.device for p in rule.parameters())
    assert predict(rule, x).dtype == torch.float64


def test_state_dict_round_trip_goes_on_to_the_bit(rule_class, digits):
    rule = make(rule_class, digits)
    optimizer = make_optimizer(rule)
    x, y = (part[:64] for part in digits[0])
    rule.stage = rule.stages[-1]
    for _ in range(3):
        step(rule, optimizer, x, y)
    saved = copy.deepcopy((rule.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    twin = make(rule_class, digits, seed=9)
    twin_optimizer = make_optimizer(twin)
    twin.stage = rule.stage
    twin.load_state_dict(saved[0])
    twin_optimizer.load_state_dict(saved[1])
    ends = []
    for r, o in ((rule, optimizer), (twin, twin_optimizer)):
        torch.set_rng_state(saved[2])
        for _ in range(3):
            step(r, o, x, y)
        ends.append(r.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_keeps_no_tensor_from_step_to_step(rule_class, digits):
    """The batch and the loss of a step are gone when the next one is done: no graph is held."""
    rule = make(rule_class, digits)
    optimizer = make_optimizer(rule)
    held = []
    for i in range(3):
        x, y = digits[0][0][i * 32 : i * 32 + 32].clone(), digits[0][1][:32].clone()
        step(rule, optimizer, x, y)
        held.append(weakref.ref(x))
        del x
    assert all(reference() is None for reference in held)
    assert all(p.grad is None or p.grad.grad_fn is None for p in rule.parameters())


@pytest.mark.parametrize("count", [1, 2, 7])
def test_small_and_partial_batches(rule_class, digits, count):
    rule = make(rule_class, digits)
    optimizer = make_optimizer(rule)
    assert step(rule, optimizer, digits[0][0][:count], digits[0][1][:count]).isfinite()
    assert predict(rule, digits[0][0][:count]).shape == (count, 10)
    assert all(p.isfinite().all() for p in rule.parameters())


def test_nan_in_the_data_stops_and_says_where(rule_class, digits):
    rule = make(rule_class, digits)
    x = digits[0][0][:16].clone()
    x[3, 5] = torch.nan
    with pytest.raises(NonFiniteError, match=r"block|layer|input"):
        rule.backward(x, digits[0][1][:16], rule.phases[0])
    assert all(p.grad is None or p.grad.isfinite().all() for p in rule.parameters())


@pytest.mark.parametrize("sizes", [(0, 0), (4, 3)], ids=["empty", "unequal"])
def test_unusable_batches_are_refused(rule_class, digits, sizes):
    rule = make(rule_class, digits)
    with pytest.raises(UserError, match="batch"):
        rule.backward(digits[0][0][: sizes[0]], digits[0][1][: sizes[1]], rule.phases[0])


@pytest.mark.parametrize("unusable", [[[0.0] * 64], torch.tensor(1.0)], ids=["list", "no batch"])
def test_what_is_no_batch_of_tensors_is_refused(rule_class, digits, unusable):
    rule = make(rule_class, digits)
    with pytest.raises(UserError, match="tensors"):
        rule.backward(unusable, digits[0][1][:1], rule.phases[0])


def test_unknown_phase_and_stage_are_refused(rule_class, digits):
    rule = make(rule_class, digits)
    with pytest.raises(UserError, match="phase"):
        rule.backward(digits[0][0][:4], digits[0][1][:4], "no such phase")
    with pytest.raises(UserError, match="stage"):
        rule.stage = "no such stage"


def test_bf16_autocast_works_and_float16_says_why_not(rule_class, digits):
    rule = make(rule_class, digits)
    x, y = (part[:32] for part in digits[0])
    with torch.autocast("cpu", torch.bfloat16):
        rule.backward(x, y, rule.phases[0])
        assert rule(x).shape == (32, 10)
    assert all(p.grad is None or p.grad.dtype == p.dtype for p in rule.parameters())
    with torch.autocast("cpu", torch.float16), pytest.raises(UserError, match=r"float16.*bfloat16"):
        rule.backward(x, y, rule.phases[0])


def test_one_autocast_around_several_steps_is_as_one_around_each(rule_class, digits):
    """Weights that autocast has cast before a step are not used after it."""
    x, y = (part[:32] for part in digits[0])
    ends = []
    for apart in (True, False):
        rule = make(rule_class, digits).eval()
        optimizer = make_optimizer(rule)
        torch.manual_seed(5)
        with nullcontext() if apart else torch.autocast("cpu", torch.bfloat16):
            for _ in range(3):
                with torch.autocast("cpu", torch.bfloat16):
                    step(rule, optimizer, x, y)
        ends.append(rule.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_predicts_without_a_graph(rule_class, digits, mode):
    rule = make(rule_class, digits).eval()
    with mode():
        scores = rule(digits[1][0][:5])
    assert scores.shape == (5, 10)
    assert not scores.requires_grad


def test_backward_works_inside_no_grad(rule_class, digits):
    rule = make(rule_class, digits)
    with torch.no_grad():
        rule.backward(digits[0][0][:8], digits[0][1][:8], rule.phases[0])
    assert any(p.grad is not None for p in rule.parameters())


def test_frozen_parameters_stay(rule_class, digits):
    rule = make(rule_class, digits)
    frozen = rule.parameter_groups()[0]["params"][0]
    frozen.requires_grad_(False)
    before = frozen.clone()
    step(rule, torch.optim.SGD(rule.parameter_groups(), lr=0.1), digits[0][0][:32], digits[0][1][:32])
    assert frozen.grad is None
    assert torch.equal(frozen, before)


def test_all_parameters_exist_before_the_first_batch(rule_class, digits):
    rule = make(rule_class, digits)
    names = [name for name, _ in rule.named_parameters()]
    step(rule, make_optimizer(rule), digits[0][0][:32], digits[0][1][:32])
    assert [name for name, _ in rule.named_parameters()] == names


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda network, x: (None, x, 10), "the network must be an nn.Module, not NoneType"),
        (lambda network, x: (nn.Linear, x, 10), "the network must be an nn.Module, not the class Linear"),
        (lambda network, x: (network, 10, x), "example must be a tensor, one input batch, not int"),
        (lambda network, x: (network, x[0], 10), "example must be one input batch"),
        (lambda network, x: (network, x, 0), "classes must be a whole number of at least 1"),
        (lambda network, x: (network, x, 10.0), "classes must be a whole number of at least 1"),
    ],
    ids=["no network", "a class", "changed places", "one sample", "no classes", "classes as a float"],
)
def test_what_cannot_be_a_classifier_is_told(rule_class, digits, wrong, told, one_line):
    with one_line(UserError, told):
        rule_class.for_classifier(*wrong(classifier(), digits[0][0][:4]))

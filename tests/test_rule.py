"""The contracts themselves, with the smallest rules and solvers that keep them."""

import inspect

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import Rule, check_labels, first_nonfinite_layer, without_trace
from beyondprop.rules.local.mono_forward import MonoForward
from beyondprop.rules.perturbation.forward_gradient import ForwardGradient
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.solver import Solver


class Staged(Rule):
    """Two stages and two phases; the loss is a constant, the gradients are counters."""

    phases = ("feedback", "network")
    stages = ("first", "second")

    def __init__(self):
        super().__init__()
        self.network = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in self.phases})

    @classmethod
    def for_classifier(cls, network, example, classes, **options):
        return cls()

    def assign_credit(self, x, y, phase):
        loss = self.network[phase].sum() + (2.0 if self.stage == "second" else 1.0)
        loss.backward()
        return loss

    def forward(self, x):
        return x


class Deviations(Solver):
    """Two passes: the mean of the inputs, then their mean square about it; of `enough` samples or all."""

    passes = ("mean", "spread")

    def __init__(self, features=3, enough=None):
        super().__init__()
        self.enough = enough
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.zeros(features))
        self.weight = nn.Parameter(torch.zeros(1))

    @classmethod
    def for_classifier(cls, network, example, classes, **options):
        return cls(example.shape[1], **options)

    def begin(self, part):
        self.sum, self.count = torch.zeros_like(self.mean), 0

    def absorb(self, x, y, part):
        self.sum += self.weight * 0 + (x if part == "mean" else (x - self.mean).square()).sum(dim=0)
        self.count += len(x)
        return self.enough is not None and self.count >= self.enough

    def conclude(self, part):
        getattr(self, part).copy_(self.sum / self.count)
        del self.sum

    def forward(self, x):
        return (x - self.mean) / self.spread.sqrt()


def test_phase_and_stage_reach_the_rule():
    rule = Staged()
    x, y = torch.zeros(2, 1), torch.zeros(2)
    assert rule.stage == "first"
    assert rule.backward(x, y, "feedback") == 1.0
    assert rule.network["network"].grad is None
    rule.stage = "second"
    assert rule.backward(x, y, "network") == 2.0
    assert rule.network["network"].grad == 1.0


def test_a_rule_of_phases_needs_one():
    with pytest.raises(UserError, match=r"no phase None: its phases are \('feedback', 'network'\)"):
        Staged().backward(torch.zeros(2, 1), torch.zeros(2))


def test_float64_inputs_of_float32_weights_are_refused_with_what_to_do(one_line):
    rule = Staged()
    x, y = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2)
    with one_line(UserError, "x is float64", "Staged are float32", "x.float()"):
        rule.backward(x, y, "network")
    assert rule.network["network"].grad is None
    rule.backward(x.float(), y, "network")
    rule.backward(x.long(), y, "network")  # such as words
    rule.double().backward(x, y, "feedback")


def test_errors_of_torch_are_noted_with_what_was_given():
    rule = Backprop(nn.Linear(3, 2))
    y = torch.tensor([0, 1])
    with pytest.raises(RuntimeError) as caught:
        rule.backward(torch.zeros(2, 4), y)
    assert caught.value.__notes__ == ["Backprop was given float32 of shape (2, 4) as x and int64 of shape (2,) as y"]
    with pytest.raises(RuntimeError) as caught:
        rule.backward(torch.zeros(2, 3, dtype=torch.uint8), y)
    assert caught.value.__notes__[0].endswith("as y: images of whole numbers become x.float() / 255")


def test_an_example_of_one_sample_is_told(one_line):
    with one_line(UserError, "shape (3,) is that of one sample: give x[:1]"):
        MonoForward(nn.Sequential(nn.Linear(3, 2)), torch.zeros(3), 2)


def test_classes_that_count_from_one_are_told(one_line):
    with one_line(UserError, "0..2, got 3: they count from 0, so subtract 1"):
        check_labels(torch.tensor([1, 2, 3]), 3)
    for wrong in ([0, 1, 3], [1, 2, 4], [-1, 2, 2]):
        with pytest.raises(UserError, match=r"labels must lie in 0\.\.2") as caught:
            check_labels(torch.tensor(wrong), 3)
        assert "subtract" not in str(caught.value)


def test_solver_goes_over_the_data_in_its_passes_and_returns_itself():
    x, y = torch.randn(25, 3), torch.zeros(25)
    solver = Deviations.for_classifier(nn.Linear(3, 3), x, 3)
    assert solver.fit(x, y, batch_size=10) is solver
    torch.testing.assert_close(solver.mean, x.mean(dim=0))
    torch.testing.assert_close(solver.spread, x.var(dim=0, correction=0))
    twin = Deviations()
    twin.load_state_dict(solver.state_dict())
    assert torch.equal(twin(x), solver(x))


def test_a_solver_predicts_nothing_before_its_last_pass_has_ended(one_line):
    x, y = torch.randn(25, 3), torch.zeros(25)
    solver = Deviations()
    for part in (None, "mean"):
        if part:
            solver.run_pass(part, [(x, y)])
        with one_line(UserError, "Deviations has been fitted to nothing yet: call fit first"):
            solver(x)
    solver.run_pass("spread", [(x, y)])
    assert solver(x).isfinite().all()
    with pytest.raises(NonFiniteError):
        solver.fit(x / 0, y)
    with pytest.raises(UserError, match="batches are empty"):
        solver.run_pass("mean", [])
    with one_line(UserError, "fitted to nothing yet"):  # what a pass had begun to change may be half of another fit
        solver(x)


def test_batches_of_any_kind_fit_alike():
    x, y = torch.randn(25, 3), torch.zeros(25)
    pairs = list(zip(x.split(7), y.split(7), strict=True))
    kinds = [pairs, tuple(pairs), lambda: (pair for pair in pairs), lambda: pairs, DataLoader(TensorDataset(x, y), 7)]
    found = [Deviations().fit_batches(kind) for kind in kinds]
    for solver in found:
        assert torch.equal(solver.mean, found[0].mean)
        assert torch.equal(solver.spread, found[0].spread)


def test_solver_builds_no_graph():
    seen = []

    class Watching(Deviations):
        def conclude(self, part):
            seen.append(self.sum.grad_fn)
            super().conclude(part)

    Watching().fit(torch.randn(9, 3), torch.zeros(9))
    assert seen == [None, None]


def test_a_pass_that_has_seen_enough_reads_no_further():
    read = []

    def batches():
        for number in range(5):
            read.append(number)
            yield torch.full((2, 3), float(number)), torch.zeros(2)

    solver = Deviations(enough=4).fit_batches(batches)
    assert read == [0, 1, 0, 1]
    assert solver.mean.tolist() == [0.5] * 3


def test_an_unfinished_pass_is_forgotten():
    x, y = torch.randn(8, 3), torch.zeros(8)
    solver = Deviations()
    with pytest.raises(NonFiniteError):
        solver.fit_batches([(x, y), (x * torch.nan, y)])
    assert torch.equal(solver.fit(x, y).mean, Deviations().fit(x, y).mean)


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.zeros(0, 3), torch.zeros(0), UserError, "0 inputs, 0 targets"),
        (torch.zeros(2, 3), torch.zeros(3), UserError, "2 inputs, 3 targets"),
        (torch.full((2, 3), float("inf")), torch.zeros(2), NonFiniteError, "inputs hold NaN"),
        (torch.zeros(2, 3), torch.tensor([0.0, torch.nan]), NonFiniteError, "targets hold NaN"),
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2), UserError, "x is float64"),
        ([[0.0]], [0.0], UserError, "as tensors"),
    ],
    ids=["empty", "unequal", "infinite", "targets", "double", "lists"],
)
def test_solver_refuses_what_it_cannot_fit(x, y, error, words, one_line):
    with one_line(error, words):
        Deviations().fit(x, y)
    with one_line(error, words):
        Deviations().fit_batches([(torch.zeros(1, 3), torch.zeros(1)), (x, y)])


def test_batches_that_cannot_be_used_are_told(one_line):
    pair = (torch.zeros(1, 3), torch.zeros(1))
    with one_line(UserError, "goes over its data 2 times", "generator function"):
        Deviations().fit_batches(pair for _ in range(3))
    with one_line(UserError, "pass 'mean'", "empty"):
        Deviations().fit_batches([])
    with one_line(UserError, "a pair (x, y)", "Tensor"):
        Deviations().fit_batches([torch.zeros(2, 3)])
    with one_line(UserError, "iterable of pairs", "int"):
        Deviations().fit_batches(3)
    with one_line(UserError, "no pass 'median'"):
        Deviations().run_pass("median", [pair])
    with one_line(UserError, "batch_size"):
        Deviations().fit(*pair, batch_size=0)


def test_first_nonfinite_layer_in_order_of_the_forward_pass():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    with torch.no_grad():
        network[1][0].bias[0] = torch.nan
    assert first_nonfinite_layer(network, torch.zeros(1, 2)) == "layer 1.0"
    assert first_nonfinite_layer(network, torch.full((1, 2), torch.nan)) == "the input"
    assert not any(m._forward_hooks for m in network.modules())


def test_finite_network_leaves_only_the_loss():
    assert first_nonfinite_layer(nn.Linear(2, 2), torch.zeros(1, 2)) == "the loss"


def test_without_trace_moves_nothing():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    network[0].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    generator = torch.get_rng_state()
    with without_trace(network):
        out = network(torch.randn(4, 3))
        torch.rand(7)
    assert not out.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [m.training for m in network] == [False, True, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_in_range_are_accepted(dtype):
    labels = check_labels(torch.tensor([0, 2], dtype=dtype), 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 2]


class Own(Backprop):
    """A rule that calls the one it comes from, and names its arguments otherwise."""

    @classmethod
    def for_classifier(cls, net, batch, count, width=3, **options):
        return super().for_classifier(net, batch, count, **options), width


def test_a_users_for_classifier_is_checked_and_called_as_it_was_written(one_line):
    network, x = nn.Linear(2, 3), torch.zeros(4, 2)
    for rule, width in (
        Own.for_classifier(network, x, 3, 5),
        Own.for_classifier(net=network, batch=x, count=3, width=5),
    ):
        assert type(rule) is Own
        assert width == 5
    with one_line(UserError, "the network must be an nn.Module"):
        Own.for_classifier(None, x, 3)
    assert list(inspect.signature(Own.for_classifier).parameters) == ["net", "batch", "count", "width", "options"]


def test_a_for_classifier_that_is_no_class_method_is_left_alone():
    class Static(Backprop):
        @staticmethod
        def for_classifier(*given):
            return given

    class Off(Backprop):
        for_classifier = None

    assert Static.for_classifier(1, 2) == (1, 2)
    assert Off.for_classifier is None


class Rebinding(nn.Module):
    """A user's own: it sets another tensor in the place of its statistics, where torch's norms move theirs in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + x.detach().mean(dim=0)
        return self.linear(x)


@pytest.mark.parametrize(
    "make",
    [
        Backprop,
        lambda network: ForwardGradient(network, perturb="weights", directions=3),
        lambda network: ForwardGradient(network, perturb="activities", directions=3),
        lambda network: MultiplexedGradientDescent(network, at_once=1),
        lambda network: MultiplexedGradientDescent(network, at_once=4),
        lambda network: NodePerturbation(network, kind="weight"),
    ],
    ids=["bp", "fg-w", "fg-a", "mgd-1", "mgd-4", "np"],
)
def test_a_batch_moves_statistics_once_however_a_network_keeps_them(make):
    torch.manual_seed(0)
    network = Rebinding()
    x, y = torch.randn(5, 4) + 1, torch.tensor([0, 1, 2, 0, 1])
    make(network).backward(x, y)
    torch.testing.assert_close(network.mean, x.mean(dim=0))

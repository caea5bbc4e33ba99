"""The contracts themselves, with the smallest rules and solvers that keep them."""

import pytest
import torch
from torch import nn

from beyondprop.errors import NonFiniteError, UserError
from beyondprop.rule import Rule, Solver, check_labels, first_nonfinite_layer, without_trace


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


class LeastSquares(Solver):
    """Ridge regression onto one-hot classes, by the normal equations."""

    def __init__(self, features, classes, ridge=1e-3):
        super().__init__()
        self.ridge = ridge
        self.register_buffer("weight", torch.zeros(features, classes))

    @classmethod
    def for_classifier(cls, example, classes, **options):
        return cls(example.shape[1], classes, **options)

    def solve(self, x, y):
        gram = x.T @ x + self.ridge * torch.eye(x.shape[1])
        self.weight.copy_(torch.linalg.solve(gram, x.T @ nn.functional.one_hot(y, self.weight.shape[1]).to(x)))

    def forward(self, x):
        return x @ self.weight


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


def test_solver_fits_predicts_and_returns_itself():
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = x.argmax(dim=1)
    solver = LeastSquares.for_classifier(x, 3)
    assert solver.fit(x, y) is solver
    assert (solver(x).argmax(dim=1) == y).double().mean() > 0.9
    twin = LeastSquares(3, 3)
    twin.load_state_dict(solver.state_dict())
    assert torch.equal(twin(x), solver(x))


def test_solver_builds_no_graph():
    solver = LeastSquares(3, 2)
    solver.weight.requires_grad_(True)
    assert not solver.fit(torch.randn(9, 3), torch.randint(2, (9,))).weight.grad_fn


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (torch.zeros(0, 3), torch.zeros(0), UserError),
        (torch.zeros(2, 3), torch.zeros(3), UserError),
        (torch.full((2, 3), float("inf")), torch.zeros(2), NonFiniteError),
    ],
    ids=["empty", "unequal", "infinite"],
)
def test_solver_refuses_what_it_cannot_fit(x, y, error):
    with pytest.raises(error):
        LeastSquares(3, 2).fit(x, y)


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

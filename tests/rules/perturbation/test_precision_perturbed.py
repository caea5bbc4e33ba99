"""In which precision perturbed networks are evaluated: float32, under autocast too, and what is narrower is refused."""

import pytest
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.rules.perturbation.analog import AnalogMultiplexedGradientDescent
from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation
from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent
from beyondprop.rules.perturbation.node_perturbation import NodePerturbation

RULES = {
    "multiplexed": lambda network: MultiplexedGradientDescent(network, tau_x=8),
    "analog": lambda network: AnalogMultiplexedGradientDescent(network, tau_x=8, tau_theta=4.0),
    "nodes": lambda network: LayerwisePerturbation(network, steps=8),
    "weights": lambda network: LayerwisePerturbation(network, perturb="weights", steps=8),
    "rollouts": lambda network: NodePerturbation(network, samples=8),
}


def made(name):
    torch.manual_seed(0)
    rule = RULES[name](nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3)))
    return rule, torch.randn(12, 20), torch.arange(12) % 3


@pytest.mark.parametrize("name", RULES)
def test_autocast_does_not_reach_what_is_perturbed(name):
    found = []
    for narrow in (False, True):
        rule, x, y = made(name)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            for phase in rule.phases:
                rule.backward(x, y, phase)
        found.append([p.grad for p in rule.network.parameters()])
    for plain, cast in zip(*found, strict=True):
        assert plain.any()
        # A layer's own product with what was heard at its nodes may be narrow: nothing small is lost in it.
        bound = 0.02 * float(plain.abs().max()) if name == "nodes" else 0.0
        torch.testing.assert_close(plain, cast, rtol=0.0, atol=bound)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(RULES.keys() - {"rollouts"}))
def test_narrow_parameters_are_refused(name, kind, one_line):
    rule, x, y = made(name)
    rule.to(kind)
    with one_line(UserError, "parameter 0.weight is", "float16", "lost to rounding", "network.float()"):
        rule.backward(x.to(kind), y, rule.phases[0])
    assert all(p.grad is None for p in rule.network.parameters())
    rule.double()
    rule.backward(x.double(), y, rule.phases[0])

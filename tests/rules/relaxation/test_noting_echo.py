"""Hamiltonian echoes that note their course: answers, costs and predictions of replicas."""

import itertools

import torch
from light_systems import AMPLITUDES, X, Y, array

from beyondprop.rules.relaxation.noting_echo import NotingEcho


def noting(points=3):
    table = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2))).double()
    return NotingEcho(
        array(), 0.5 * AMPLITUDES, table, torch.tensor([0, 1, 1, 0]), every=2, points=points, epsilon=1e-4
    )


def test_the_course_notes_the_answers_before_the_steps():
    rule = noting()
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    seen = []
    for number in range(5):
        seen.append(rule.shares())
        optimizer.zero_grad()
        rule.backward(X[number % 3 :][:1], Y[number % 3 :][:1])
        optimizer.step()
    torch.testing.assert_close(torch.view_as_complex(rule.course), torch.stack(seen[::2]))
    assert not torch.equal(rule.course[0], rule.course[1])
    other = noting()
    other.load_state_dict(rule.state_dict())
    assert torch.equal(other.course, rule.course)
    assert int(other.taken) == 5


def test_costs_are_shares_of_the_squared_target():
    rule = noting()
    outputs, wanted = rule.network(rule.patterns), torch.tensor([[1], [-1], [-1], [1]]) * 0.5 * AMPLITUDES
    expected = ((outputs - wanted).abs().square() / (0.5 * AMPLITUDES) ** 2).mean(dim=0)
    torch.testing.assert_close(rule.costs(rule.shares()), expected)
    perfect = torch.tensor([1.0, -1.0, -1.0, 1.0]).to(torch.complex128)[:, None].expand(4, 2)
    assert rule.costs(perfect).tolist() == [0, 0]


def test_replicas_answer_by_their_mean():
    rule = noting()
    share = (rule.network(X).real / (0.5 * AMPLITUDES)).clamp(-1, 1).mean(dim=1)
    torch.testing.assert_close(rule(X), torch.stack([share, -share], dim=1))
    again, seen = torch.tensor([2, 0, 0, 1, 2]), []
    rule.network.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(rule(X[again]), torch.stack([share, -share], dim=1)[again])
    assert seen == [3]

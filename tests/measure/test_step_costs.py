"""Time and operations of a step."""

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from beyondprop.errors import UserError
from beyondprop.measure import floating_point_operations, step_time


def test_the_median_is_that_of_warm_calls():
    calls = []

    def step():
        calls.append(None)
        time.sleep(0.05 if len(calls) <= 2 else 0.002)

    found = step_time(step, repeats=5, warmup=2)
    assert len(calls) == 7
    assert found.repeats == 5
    assert 0.002 <= found.low <= found.median <= found.high < 0.05
    assert found.threads == torch.get_num_threads()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_noted(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert step_time(lambda: None, repeats=1).threads == threads
    finally:
        torch.set_num_threads(before)


def test_long_steps_are_repeated_less_often_but_thrice():
    assert step_time(lambda: time.sleep(0.01), repeats=50, warmup=0, most_seconds=0.0).repeats == 3
    with pytest.raises(UserError, match="repeats"):
        step_time(lambda: None, repeats=0)


def test_operations_are_those_that_torch_counts_by_module():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x = torch.randn(4, 3, 8, 8)

    def step():
        network(x).sum().backward()

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    assert floating_point_operations(step) == counter.get_total_flops() > 0


def test_what_differentiates_inside_an_operation_is_counted_too():
    weight = torch.randn(5, 7, requires_grad=True)

    class Inner(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x @ weight.detach()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                y = x.detach() @ weight
                torch.autograd.grad(y, weight, gradient)
            return gradient @ weight.detach().T

    x = torch.randn(3, 5, requires_grad=True)
    assert floating_point_operations(lambda: Inner.apply(x).sum().backward()) == 2 * 3 * 5 * 7 * 4

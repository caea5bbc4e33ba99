import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from beyondprop.measure import peak_live_bytes, peak_saved_bytes

BYTES = 4000  # of a vector of 1000 float32


class Vector(nn.Module):
    def __init__(self, length: int = 1000) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(length))


def sum_of_classes(peak: dict[str, int]) -> int:
    return sum(peak[name] for name in ("parameters", "gradients", "optimizer", "inputs", "activations"))


def test_a_storage_counts_until_it_is_freed() -> None:
    module = Vector()

    @torch.no_grad()
    def step() -> None:
        a = module.w * 2
        b = a * 3
        del a
        c = b + 1  # b and c: never three at once
        del b
        c.view(10, 100).t()  # a view takes no memory

    assert peak_live_bytes(step, module) == {
        "total": 3 * BYTES,
        "parameters": BYTES,
        "gradients": 0,
        "optimizer": 0,
        "inputs": 0,
        "activations": 2 * BYTES,
        "highest_activations": 2 * BYTES,
    }


def test_a_storage_in_a_cycle_counts_until_the_garbage_collector_frees_it() -> None:
    def three_in_cycles(collect: Callable[[], object]) -> None:
        for _ in range(3):
            cycle: list[object] = [torch.zeros(1000)]
            cycle.append(cycle)
            del cycle
            collect()

    gc.disable()
    try:
        assert peak_live_bytes(lambda: three_in_cycles(lambda: None), nn.Identity())["activations"] == 3 * BYTES
        assert peak_live_bytes(lambda: three_in_cycles(gc.collect), nn.Identity())["activations"] == BYTES
    finally:
        gc.enable()


def test_what_autograd_alone_holds_counts() -> None:
    module = Vector()

    def step() -> None:
        loss = module.w.exp().sin().sum()  # exp and sin keep exp's result; the sine itself is gone after the sum
        assert loss.requires_grad
        module.w.detach() + 1  # so BYTES are held and BYTES are new, plus the scalar

    assert peak_live_bytes(step, module)["highest_activations"] == 2 * BYTES + 4


def test_classes_of_a_training_step() -> None:
    module = Vector()
    optimizer = torch.optim.Adam(module.parameters(), foreach=False)
    x = torch.rand(1000)

    def step() -> None:
        optimizer.zero_grad()
        (module.w * x).sum().backward()
        optimizer.step()

    step()
    peak = peak_live_bytes(step, module, optimizer)
    assert peak["parameters"] == peak["gradients"] == peak["inputs"] == BYTES
    assert peak["optimizer"] == 2 * BYTES + 4  # two moments and the count of steps
    assert peak["total"] == sum_of_classes(peak)


def test_a_gradient_that_is_written_by_hand_is_a_gradient() -> None:
    module = Vector()

    @torch.no_grad()
    def step() -> None:
        module.w.grad = module.w * 2
        torch.zeros(1000)

    peak = peak_live_bytes(step, module)
    assert (peak["gradients"], peak["activations"]) == (BYTES, BYTES)


def test_gradients_of_an_earlier_step_are_gradients() -> None:
    module = Vector()
    module.w.sum().backward()
    peak = peak_live_bytes(lambda: module.w.detach() + 1, module)
    assert (peak["gradients"], peak["activations"], peak["total"]) == (BYTES, BYTES, 3 * BYTES)


def test_a_storage_that_grows_counts_with_its_new_size() -> None:
    def step() -> None:
        out = torch.empty(0)
        torch.add(torch.ones(1000), 1, out=out)

    assert peak_live_bytes(step, nn.Identity())["activations"] == 2 * BYTES


def test_the_count_is_the_same_every_time() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.rand(5, 8)

    def step() -> None:
        module.zero_grad()
        module(x).square().mean().backward()

    step()
    first = peak_live_bytes(step, module)
    assert peak_live_bytes(step, module) == first


def chain_of(w: Tensor) -> Tensor:
    return w.exp().sin().exp().sum()  # exp's result, kept by exp and by sin; the second exp's result


def test_saved_bytes_of_a_chain() -> None:
    module = Vector()
    assert peak_saved_bytes(lambda: chain_of(module.w).backward(), module) == 2 * BYTES


@pytest.mark.parametrize("length", [1000, 10**6])
def test_saved_bytes_are_released_by_backward(length: int) -> None:
    module, size = Vector(length), 4 * length

    def one_after_the_other() -> None:
        for _ in range(3):
            chain_of(module.w).backward()

    def all_at_once() -> None:
        sum(chain_of(module.w) for _ in range(3)).backward()

    assert peak_saved_bytes(one_after_the_other, module) == 2 * size
    assert peak_saved_bytes(all_at_once, module) == 6 * size


def test_saved_parameters_do_not_count_and_gradients_stay_right() -> None:
    module = Vector()
    assert peak_saved_bytes(lambda: (module.w * module.w).sum().backward(), module) == 0
    assert torch.equal(module.w.grad, 2 * module.w)

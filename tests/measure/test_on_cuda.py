"""What is measured on CUDA: with its counters replaced anywhere, and on a device where there is one."""

import pytest
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.measure import (
    floating_point_operations,
    peak_allocated_bytes,
    peak_live_bytes,
    peak_saved_bytes,
    step_time,
)


@pytest.fixture
def counters(monkeypatch):
    """CUDA's counters as a list of what was asked of them, in order."""
    asked = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: asked.append((name, device.index)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 4096 * asked.count(("step", None)))
    return asked


def test_the_allocators_peak_is_that_of_one_step_once_it_has_ended(counters):
    assert peak_allocated_bytes(lambda: counters.append(("step", None)), "cuda:1") == 4096
    assert counters == [("synchronize", 1), ("reset_peak_memory_stats", 1), ("step", None), ("synchronize", 1)]


def test_the_time_of_a_step_waits_for_the_device_before_and_after(counters):
    step_time(lambda: counters.append(("step", None)), repeats=3, warmup=0, device="cuda:1")
    assert counters == 3 * [("synchronize", 1), ("step", None), ("synchronize", 1)]


def test_other_devices_have_no_such_counter(one_line):
    with one_line(UserError, "cpu", "peak_live_bytes"):
        peak_allocated_bytes(lambda: None, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_count_alike_on_the_device_and_the_allocator_sees_them_all():
    def step_on(device):
        network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        x = torch.randn(128, 64, device=device)

        def step():
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()

        step()
        return step, network, optimizer

    here, there = step_on("cpu"), step_on("cuda")
    assert peak_live_bytes(*there) == peak_live_bytes(*here)
    assert peak_saved_bytes(*there[:2]) == peak_saved_bytes(*here[:2])
    assert floating_point_operations(there[0]) == floating_point_operations(here[0])
    assert peak_allocated_bytes(there[0], "cuda") >= peak_live_bytes(*there)["total"]
    assert step_time(there[0], repeats=3, device="cuda").median > 0

"""`beyondprop device` in a process of its own, and what becomes of a training when that is killed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from beyondprop.catalogue import find_recipe
from beyondprop.cli import main
from beyondprop.devices import RemoteDevice
from beyondprop.recipes.chip import simulated_chip
from beyondprop.rules.perturbation.chip import ChipMGD

CHIP = ("--noise", "0", "--defects", "0", "--bits", "0", "--hidden", "4")


@contextlib.contextmanager
def started(*flags, **environment):
    """The command, once it has said where it listens."""
    command = [sys.executable, "-m", "beyondprop", "device", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        try:
            line = process.stdout.readline()
            yield process, re.fullmatch(r"a chip with 310 parameters listens at (\S+)\n", line)[1]
        finally:
            process.kill()


def train(rule, steps=8):
    """A training by hand, of which the draws come from one seed."""
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.5)
    torch.manual_seed(1)
    x, y = torch.randn(5, 1, 8, 8), torch.arange(5)
    for _ in range(steps):
        optimizer.zero_grad()
        rule.backward(x, y)
        optimizer.step()
    return rule.network.theta.detach()


@pytest.mark.slow
def test_a_chip_that_is_killed_and_started_again_loses_nothing():
    """Killed at some moment of a training whose every call takes a while; started again at the same port."""
    settings = find_recipe("mgd/digits-chip").settings
    settings = type(settings)(**{**vars(settings), "noise": 0.0, "defects": 0.0, "bits": 0, "hidden": 4})
    initial, options = 0.1 * torch.ones(310), {"tau_x": 4}
    expected = train(ChipMGD(simulated_chip(settings, (1, 8, 8), 10), initial=initial, **options))
    with started(*CHIP, "--latency", "0.05") as (first, address):
        remote, over = RemoteDevice(address), threading.Event()

        def kill_and_start_again():
            time.sleep(0.4)
            first.send_signal(signal.SIGKILL)
            first.wait()
            with started(*CHIP, "--port", address.rpartition(":")[2]):
                over.wait()

        thread = threading.Thread(target=kill_and_start_again)
        thread.start()
        try:
            found = train(ChipMGD(remote, initial=initial, **options))
        finally:
            remote.close()
            over.set()
            thread.join()
        assert first.returncode == -signal.SIGKILL
    assert torch.equal(found, expected)


def test_ctrl_c_ends_it_and_the_way_to_train_it_is_told():
    with started(*CHIP) as (process, address):
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        told = process.stderr.read()
    assert f"beyondprop train mgd/digits-chip --chip {address}" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "no token"),
        (["bp/digits"], "has no chip"),
        (["--noise", "-1"], "noise"),
        (["--port", "-3"], "ports are 0 to 65535"),
        (["--token-file", "nowhere"], "cannot be read"),
        (["--epochs", "3"], "no flag --epochs"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(flags, message, capsys, monkeypatch):
    monkeypatch.delenv("BEYONDPROP_TOKEN", raising=False)
    assert main(["device", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err

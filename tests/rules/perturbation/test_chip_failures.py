"""A chip that fails, hangs or reads nonsense: what is asked again changes nothing, and the rest is told."""

import copy
import threading
import time

import pytest
import torch
from small_chips import AT_ONCE, Counting, batches, chip_rule, flat, network, train, undisturbed
from torch import nn

from beyondprop.devices import DeviceServer, ModuleDevice, RemoteDevice
from beyondprop.devices.patience import Patience
from beyondprop.errors import DeviceError, NonFiniteError


class Forgetful(Counting):
    """When it fails it loses what was written and presented, as a chip does that is started again."""

    def _meet(self, name):
        try:
            super()._meet(name)
        except (OSError, DeviceError):
            ModuleDevice.write(self, torch.full((self.size,), 99.0))
            ModuleDevice.present(self, torch.zeros(1, 3), torch.tensor([0]))
            raise


@pytest.mark.parametrize("call", ["write", "present", "read"])
@pytest.mark.parametrize("error", [TimeoutError("late"), ConnectionResetError("cable"), DeviceError("warm")])
def test_a_failing_device_is_asked_again_and_nothing_is_lost(call, error):
    """At the second and third of the calls: the retry fails as well."""
    device = Forgetful(lambda name, count: error if name == call and count in (2, 3) else None)
    assert torch.equal(train(chip_rule(device)), undisturbed())
    assert device.counts[call] >= 8


def test_predictions_are_asked_again_as_well():
    device = Forgetful(lambda name, count: OSError("cable") if (name, count) == ("predict", 1) else None)
    rule, (x, _) = chip_rule(device), batches(1)[0]
    torch.testing.assert_close(rule(x), network()(x))


class Nonsense(Counting):
    """Some reads, counted from 1, give other numbers than the cost."""

    def __init__(self, wrong, value):
        super().__init__()
        self.wrong, self.value = wrong, value

    def read(self, perturbations):
        costs = super().read(perturbations)
        if self.counts["read"] in self.wrong:
            costs[self.value != self.value :] = self.value  # NaN from the second on; else all
        return costs


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_cost_that_is_not_finite_is_read_again(value):
    device = Nonsense({2, 3, 7}, value)
    assert torch.equal(train(chip_rule(device)), undisturbed())
    assert device.counts["read"] == 9
    assert device.counts["write"] == 9  # each time anew


def test_a_cost_that_stays_nan_stops_the_training_after_pauses(one_line, monkeypatch):
    """A chip that reads nonsense for a while is given as much time as one that is lost."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    device = Nonsense(range(3, 100), torch.nan)
    rule = chip_rule(device, patience={"rereads": 4})
    with one_line(DeviceError, "not finite", "5 times"):
        train(rule)
    assert waits == [0.0, 0.1, 0.2, 0.4]
    assert device.counts["read"] == 2 + 5


def test_a_stuck_read_is_read_again_and_told(one_line):
    """Sixteen and more costs in a row that are one number, over two reads."""
    patience = {"stuck_after": 16, **AT_ONCE}
    device = Nonsense({2, 3}, 0.25)
    assert not torch.equal(train(chip_rule(device)), undisturbed())  # not noticed by default: 18 are less than 256
    device = Nonsense(range(2, 100), 0.25)
    rule = chip_rule(device, patience=patience)
    with one_line(DeviceError, "0.25 whatever is perturbed", "13 times"):
        train(rule)
    device = Nonsense(range(2, 100), 0.25)
    train(chip_rule(device, patience={"stuck_after": 0, **AT_ONCE}))  # who wants to go on may


def test_a_stuck_read_that_comes_loose_loses_nothing():
    device = Nonsense({3}, 0.25)
    assert torch.equal(train(chip_rule(device, patience={"stuck_after": 9, **AT_ONCE})), undisturbed())
    assert device.counts["read"] == 7


def test_equal_costs_with_others_between_them_are_not_stuck():
    patience = Patience(ModuleDevice(network()), stuck_after=4)
    for value in (1.0, 2.0) * 5:
        assert patience._fault(torch.full((3,), value)) is None
    assert patience._fault(torch.tensor([2.0, 3.0])) is None
    assert patience._fault(torch.full((3,), 2.0)) is None
    assert "whatever" in patience._fault(torch.full((3,), 2.0))


def test_pauses_double_to_the_longest_and_end(monkeypatch, one_line):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    device = Counting(lambda name, count: OSError("gone"))
    patience = Patience(device, retries=6, pause=0.5, longest=3.0)
    with one_line(DeviceError, "gone", "asked 7 times", "resume"):
        patience.costs(torch.zeros(32), torch.zeros(1, 32), *batches(1)[0])
    assert waits == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


class Silent(Counting):
    """A device whose calls of one name do not come back in time, and then have done nothing; tells who was in at once.

    Args:
        name: "write" or "read".
        number: Of the call that is late.
        seconds: After which it comes back.
    """

    def __init__(self, name, number, seconds):
        super().__init__()
        self.late, self.seconds, self.free = (name, number), seconds, threading.Event()
        self.inside, self.most = 0, 0

    def _hangs(self, name):
        self.inside += 1
        self.most = max(self.most, self.inside)
        hangs = (name, self.counts[name] + 1) == self.late
        if hangs:
            self._meet(name)
            self.free.wait(self.seconds)
        self.inside -= 1
        return hangs

    def write(self, parameters):
        if not self._hangs("write"):
            super().write(parameters)

    def read(self, perturbations):
        return torch.zeros(len(perturbations)) if self._hangs("read") else super().read(perturbations)


@pytest.mark.parametrize("name", ["read", "write"])
def test_an_answer_that_comes_late_is_thrown_away_and_all_is_asked_again(name):
    device = Silent(name, 2, seconds=2.5)
    assert torch.equal(train(chip_rule(device, patience={"timeout": 1.5, **AT_ONCE})), undisturbed())
    assert device.most == 1


def test_a_read_that_never_comes_back_ends_the_training_in_one_line(one_line):
    device = Silent("read", 2, seconds=60)
    rule = chip_rule(device, patience={"timeout": 0.5, "retries": 2, **AT_ONCE})
    data = batches()
    rule.backward(*data[0])
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    with one_line(DeviceError, "has not answered", "asked 3 times", "resume"):
        rule.backward(*data[1])
    assert all(torch.equal(value, before[name]) for name, value in rule.state_dict().items())
    assert device.most == 1
    device.free.set()


@pytest.mark.parametrize("timeout", [0.0, 60.0])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_device_runs_in_the_callers_modes_also_in_a_thread(mode, timeout):
    found = []

    class Noting(ModuleDevice):
        def read(self, perturbations):
            found.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return super().read(perturbations)

    patience = Patience(Noting(network()), timeout=timeout)
    x, y = batches(1)[0]
    with mode():
        expected = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        patience.costs(flat(network()), torch.zeros(2, patience.device.size), x, y)
    assert found == [expected]


def test_a_defect_in_a_driver_is_told_as_it_is_from_another_thread():
    device = Counting(lambda name, count: ValueError("a defect in the driver"))
    with pytest.raises(ValueError, match="driver"):
        chip_rule(device, patience={"timeout": 5.0}).backward(*batches(1)[0])


def test_what_is_no_failure_of_the_moment_is_not_asked_again():
    device = Counting(lambda name, count: ValueError("a defect in the driver"))
    with pytest.raises(ValueError, match="driver"):
        chip_rule(device).backward(*batches(1)[0])
    assert device.counts["write"] == 1


def test_a_call_that_failed_can_be_made_again():
    """The device is given up in the third call; the same call, once it is mended, goes on to the same weights."""
    broken = {"now": True}
    device = Counting(lambda name, count: OSError("gone") if broken["now"] and count >= 3 else None)
    rule = chip_rule(device, code="walsh", patience={"retries": 1, **AT_ONCE})
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    data = batches()
    torch.manual_seed(2)
    for x, y in data:
        optimizer.zero_grad()
        try:
            rule.backward(x, y)
        except DeviceError:
            broken["now"] = False
            rule.backward(x, y)
        optimizer.step()
    assert not broken["now"]
    other = chip_rule(ModuleDevice(network()), code="walsh")
    other.code.load_state_dict({**rule.code.state_dict(), "time": torch.tensor(0)})
    assert torch.equal(flat(rule), train(other))


def test_random_perturbations_of_a_call_that_failed_are_drawn_again():
    rule = chip_rule(Counting(lambda name, count: OSError("gone")), tau_p=3, patience={"retries": 0})
    (x, y) = batches(1)[0]
    before, drawn = copy.deepcopy(rule.state_dict()), torch.get_rng_state()
    with pytest.raises(DeviceError):
        rule.backward(x, y)
    assert all(torch.equal(before[name], value) for name, value in rule.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_nan_in_the_data_is_the_datas_fault():
    device = Counting()
    x, y = batches(1)[0]
    x[2, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="the input"):
        chip_rule(device).backward(x, y)
    assert device.counts["read"] == 1


def test_nan_in_the_targets_is_the_datas_fault_too():
    device = Counting(loss=nn.MSELoss())
    x, y = batches(1)[0]
    with pytest.raises(NonFiniteError):
        chip_rule(device).backward(x, torch.full((len(y), 2), torch.nan))
    assert device.counts["read"] == 1


def test_a_driver_may_change_what_it_is_given():
    """What is asked again after a failure is the same question."""

    class InPlace(Counting):
        def write(self, parameters):
            super().write(parameters)
            parameters.zero_()

        def present(self, x, y):
            super().present(x.clone(), y.clone())
            x.zero_()

        def read(self, perturbations):
            given = perturbations.clone()
            perturbations.add_(1.0)
            return super().read(given)

    def fault(name, count):
        return OSError("gone") if (name, count) in {("read", 2), ("read", 5)} else None

    assert torch.equal(train(chip_rule(InPlace(fault))), undisturbed())


def test_a_servers_restart_in_a_training_changes_nothing():
    """It ends in the middle of a read, and comes back at its address with nothing of what was written."""
    device, other = Counting(), ModuleDevice(network())
    server = DeviceServer(device)
    port, again = int(server.address.rpartition(":")[2]), []

    def fails(name, count):
        if (name, count) == ("read", 3) and not again:
            server.close()
            again.append(DeviceServer(other, port=port))
            again[0].thread = again[0].running()
            again[0].thread.__enter__()

    device.fails = fails
    with server.running():
        remote = RemoteDevice(server.address, timeout=5)
        found = train(chip_rule(remote, patience={"pause": 0.05}))
    again[0].thread.__exit__(None, None, None)
    assert torch.equal(found, undisturbed())


def test_an_answer_that_does_not_come_is_given_up_and_asked_for_again():
    def fails(name, count):
        if (name, count) == ("read", 3):
            time.sleep(0.5)

    with DeviceServer(Counting(fails)).running() as server:
        remote = RemoteDevice(server.address, timeout=0.2)
        assert torch.equal(train(chip_rule(remote, patience={"pause": 0.1})), undisturbed())

"""Asking a device again when it is lost, late or reads nonsense."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from beyondprop.checks import check_number, check_whole
from beyondprop.devices.device import Device, check_device, outputs_of
from beyondprop.errors import DeviceError, UserError

logger = logging.getLogger("beyondprop.devices")


class Patience:
    """Reads costs and outputs of a device through its failures.

    Every question is asked whole: parameters are written where they are not those that stand, the batch is presented,
    then it is read. When a part of it fails, all of it is asked once more, with the parameters written anew, since a
    device that was away may have forgotten them; so an answer is that of an undisturbed device.

    Args:
        device: Any.
        retries: How often a question is asked again after `OSError` (lost connections and timeouts among them) or
            `DeviceError`: at once, then after `pause` seconds, and each time twice as long, at most `longest`. With the
            defaults nearly two minutes, in which a chip can be started again.
        pause: Seconds.
        longest: Seconds.
        rereads: How often costs that are NaN, infinite or stuck are read again, after the same pauses.
        stuck_after: So many costs in a row of the very same value, whatever was perturbed, are a stuck read; 0 never.
        timeout: Seconds that the device may take for a question, for a device of your own whose calls may never return
            (one behind a socket has a timeout of its own); 0 waits for ever. A late answer is thrown away and the
            question asked again; none at all is a failure, after as long as all retries may take.

    Raises:
        UserError: It is no device, or an argument is out of range.
    """

    def __init__(
        self,
        device: Device,
        *,
        retries: int = 12,
        pause: float = 0.1,
        longest: float = 30.0,
        rereads: int = 12,
        stuck_after: int = 256,
        timeout: float = 0.0,
    ) -> None:
        check_device(device)
        check_whole(0, retries=retries, rereads=rereads, stuck_after=stuck_after)
        check_number(pause=pause, longest=longest, timeout=timeout)
        self.device = device
        self.retries, self.pause, self.longest = retries, pause, longest
        self.rereads, self.stuck_after = rereads, stuck_after
        self.timeout = timeout
        self._late: threading.Thread | None = None  # asks a question whose time is over
        self._written: Tensor | None = None  # what is known to stand on the device
        self._value, self._repeats = 0.0, 0

    def costs(self, parameters: Tensor, perturbations: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Read the costs of a batch at perturbed parameters.

        Args:
            parameters: Shape (P,).
            perturbations: Shape (K, P).
            x: Inputs.
            y: Targets.

        Returns:
            Shape (K,). NaN or infinite only where the inputs or the parameters are.

        Raises:
            DeviceError: It has failed more often than it may; nothing is changed.
        """
        perturbations, x, y = perturbations.cpu(), x.cpu(), y.cpu()

        def ask() -> Tensor:
            self._write(parameters)
            self.device.present(x.clone(), y.clone())  # what a driver changes in place must not be asked next time
            return _numbers(self.device.read(perturbations.clone()), "read")

        for reread in itertools.count():
            costs = self._persist(ask)
            if costs.shape != perturbations.shape[:1]:
                wanted, got = len(perturbations), tuple(costs.shape)
                raise UserError(
                    f"the device gave costs of shape {got} for {wanted} perturbations: it must give ({wanted},)"
                )
            fault = self._fault(costs)
            if fault is None or not _finite(x, y, parameters):  # whose fault it is, the rule will say
                return costs
            if reread == self.rereads:
                raise DeviceError(f"{fault}; it was read {reread + 1} times")
            self._pause(reread, f"{fault}; reading", self.rereads)
            self._written = None
        raise AssertionError("the loop above has no end")

    def predict(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Read the outputs for x, where the device shows them.

        Raises:
            UserError: It shows none.
            DeviceError: It has failed more often than it may.
        """
        predict = outputs_of(self.device)
        if predict is None:
            raise UserError(
                f"{type(self.device).__name__} shows no outputs: give it a predict(x), or tell the rule its classes, "
                "of which it then reads the costs"
            )

        def ask() -> Tensor:
            self._write(parameters)
            return _numbers(predict(x.cpu()), "predict")

        return self._persist(ask)

    def _write(self, parameters: Tensor) -> None:
        with torch.inference_mode(False):  # what is kept here is used outside of it
            parameters = parameters.detach().cpu().clone()
        if self._written is None or not torch.equal(parameters, self._written):
            self._written = None
            self.device.write(parameters.clone())
            self._written = parameters

    def _persist(self, ask: Callable[[], Tensor]) -> Tensor:
        for retry in itertools.count():
            try:
                return self._in_time(ask)
            except (OSError, DeviceError) as error:
                self._written = None
                reason = str(error) or type(error).__name__
                if retry == self.retries:
                    raise DeviceError(f"{reason} (asked {retry + 1} times): see to it, then resume") from error
                self._pause(retry, f"{reason}; asking", self.retries)
            except BaseException:
                self._written = None
                raise
        raise AssertionError("the loop above has no end")

    def _pause(self, number: int, what: str, most: int) -> None:
        wait = min(self.pause * 2 ** (number - 1), self.longest) if number else 0.0
        when = f"in {wait:.1f} s" if wait else "at once"
        logger.warning("%s again %s, %d of %d", what, when, number + 1, most)
        time.sleep(wait)

    def _in_time(self, ask: Callable[[], Tensor]) -> Tensor:
        """Ask in a thread, which can be left waiting; nothing else is asked while it waits."""
        if not self.timeout:
            return ask()
        if self._late is not None:
            self._late.join(self.timeout)
            if self._late.is_alive():
                raise TimeoutError(f"the device has not answered an earlier question in {self.timeout:g} s more")
            self._late = self._written = None
        answers: list[Tensor] = []
        faults: list[BaseException] = []
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        def work() -> None:
            try:
                with torch.inference_mode(inference), torch.set_grad_enabled(grad):  # a thread has modes of its own
                    answers.append(ask())
            except BaseException as fault:
                faults.append(fault)

        asking = threading.Thread(target=work, daemon=True)
        asking.start()
        try:
            asking.join(self.timeout)
        finally:
            self._late = asking if asking.is_alive() else None
        if self._late is not None:
            raise TimeoutError(f"the device has not answered in {self.timeout:g} s")
        if faults:
            raise faults[0]
        return answers[0]

    def _fault(self, costs: Tensor) -> str | None:
        """What is wrong with costs, if anything is."""
        if not costs.isfinite().all():
            return "the device reads a cost that is not finite: see to it, or lower learning rate or norm"
        first = float(costs[0])
        if not bool((costs == first).all()):
            self._repeats = 0
            return None
        self._repeats = len(costs) + (self._repeats if first == self._value else 0)
        self._value = first
        if 0 < self.stuck_after <= self._repeats:
            return (
                f"the device reads {first:.6g} whatever is perturbed: its read is stuck, or the perturbation's norm is "
                "below what it can tell (where such costs are right, give stuck_after=0, or --stuck-after 0)"
            )
        return None


def _finite(*tensors: Tensor) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def _numbers(answer: object, name: str) -> Tensor:
    """What a driver has given, as a tensor.

    Raises:
        UserError: It is none, as where a `return` was forgotten.
    """
    try:
        return torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the device's {name} gave {answer!r:.60}: it must return numbers") from error

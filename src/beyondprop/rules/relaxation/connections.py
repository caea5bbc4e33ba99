"""What stands between two layers of states: its value, its transpose and its weights' gradients, written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from beyondprop.errors import UnsupportedNetworkError, UserError

aten = torch.ops.aten
Gradients = list[tuple[nn.Parameter, Tensor]]


class Held:
    """What is held while states settle: masks of dropout and statistics of batch norm, by stage.

    Attributes:
        measuring: Whether batch norm still takes the statistics of what it sees; afterwards those stay.
    """

    def __init__(self, *, measuring: bool) -> None:
        self.masks: dict[Stage, Tensor] = {}
        self.statistics: dict[Stage, tuple[Tensor, Tensor, int]] = {}
        self.measuring = measuring

    def settle(self) -> None:
        """From now on statistics stay as they are, and are constants."""
        self.measuring = False
        self.statistics = {
            stage: (mean.detach(), variance.detach(), count)
            for stage, (mean, variance, count) in self.statistics.items()
        }

    def repeated(self, copies: int) -> Held:
        """For a batch of copies; nothing is measured any more."""
        held = Held(measuring=False)
        held.masks = {stage: torch.cat([mask] * copies) for stage, mask in self.masks.items()}
        held.statistics = self.statistics
        return held


class Stage:
    """One layer of a connection, linear for given `Held` and memory.

    Attributes:
        remembers: Whether the transpose depends on the input, by more than its shape.
    """

    remembers: ClassVar[bool] = False

    def __init__(self, name: str, module: Any) -> None:
        self.name, self.module = name, module

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Return the output, and what `pull` has to know of the input."""
        del held
        return self.module(x), None

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Send a signal on the output back to the input, by the transpose."""
        raise NotImplementedError

    def gradients(self, x: Tensor, signal: Tensor, held: Held) -> Gradients:
        """Differentiate <signal, output> with respect to the parameters."""
        del x, signal, held
        return []


class Linear(Stage):
    """W x + b."""

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """W^T signal."""
        return signal @ self.module.weight

    def pull_onto(self, base: Tensor, signal: Tensor) -> Tensor:
        """Base + W^T signal, of vectors, in one kernel."""
        return torch.addmm(base, signal, self.module.weight)

    def gradients(self, x: Tensor, signal: Tensor, held: Held) -> Gradients:
        """Signal x^T, and the sum of signals."""
        x, signal = x.flatten(0, -2), signal.flatten(0, -2)
        found = [(self.module.weight, signal.t() @ x)]
        return found if self.module.bias is None else [*found, (self.module.bias, signal.sum(0))]


class Conv(Stage):
    """w * x + b."""

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Return the convolution, and the input's height and width."""
        return self.module(x), x.shape[2:]

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Convolve by the transpose."""
        conv = self.module
        padded = [
            size + 2 * p - d * (k - 1) - 1 - (out - 1) * s
            for size, out, s, p, d, k in zip(
                memory, signal.shape[2:], conv.stride, conv.padding, conv.dilation, conv.kernel_size, strict=True
            )
        ]
        return F.conv_transpose2d(
            signal, conv.weight, None, conv.stride, conv.padding, padded, conv.groups, conv.dilation
        )

    def gradients(self, x: Tensor, signal: Tensor, held: Held) -> Gradients:
        """Correlate signal and input, and sum the signals."""
        conv = self.module
        signal = signal.to(x.dtype)
        _, weight, _ = aten.convolution_backward(
            signal,
            x,
            conv.weight.to(x.dtype),
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            [False, True, False],
        )
        found = [(conv.weight, weight)]
        return found if conv.bias is None else [*found, (conv.bias, signal.sum((0, 2, 3)))]


class MaxPool(Stage):
    """The largest of each window; the transpose sends a signal to where that stood."""

    remembers = True

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Return the pooled input, and where it was found."""
        pool = self.module
        value, where = F.max_pool2d(
            x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True
        )
        return value, (x, where)

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Send each signal to the largest of its window."""
        pool, (x, where) = self.module, memory
        sizes = [_pair(size) for size in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
        return aten.max_pool2d_with_indices_backward(signal.to(x.dtype), x, *sizes, pool.ceil_mode, where)


class AvgPool(Stage):
    """The mean of each window."""

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Return the pooled input, and the input for its shape."""
        return self.module(x), x

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Spread each signal evenly over its window."""
        pool = self.module
        sizes = [_pair(size) for size in (pool.kernel_size, pool.stride, pool.padding)]
        flags = (pool.ceil_mode, pool.count_include_pad, pool.divisor_override)
        return aten.avg_pool2d_backward(signal.to(memory.dtype), memory, *sizes, *flags)


class Flatten(Stage):
    """One row for a sample."""

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Return the row, and the shape it came from."""
        return self.module(x), x.shape

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Give it its shape back."""
        return signal.reshape(-1, *memory[1:])


class Dropout(Stage):
    """The mask that this batch drew, the same in all phases of its step."""

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Mask the states, by a mask that is drawn where there is none yet."""
        if not self.module.training:
            return x, None
        if self not in held.masks:
            held.masks[self] = self.module(torch.ones_like(x))
        return x * held.masks[self], None

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Mask the signal."""
        return signal * held.masks[self] if self in held.masks else signal


class BatchNorm(Stage):
    """(x - mean) / deviation * weight + bias by statistics that are held: a scale and a shift of each channel.

    A graph over `push` and `pull` goes through statistics while they are measured.
    """

    def push(self, x: Tensor, held: Held) -> tuple[Tensor, Any]:
        """Scale and shift, by the batch's statistics where these are measured."""
        norm = self.module
        if self not in held.statistics or (held.measuring and self._of_batch()):
            held.statistics[self] = self._statistics(x)
        mean, scale = self._affine(x, held)
        y = (x - mean) * scale
        return (y if norm.bias is None else y + self._wide(norm.bias, x)), None

    def pull(self, signal: Tensor, memory: Any, held: Held) -> Tensor:
        """Scale the signal."""
        return signal * self._affine(signal, held)[1]

    def gradients(self, x: Tensor, signal: Tensor, held: Held) -> Gradients:
        """Sum signals, and signals times what was normalised, over each channel."""
        norm = self.module
        if norm.weight is None:
            return []
        mean, variance, _ = held.statistics[self]
        normed = (x - self._wide(mean, x)) * self._wide((variance + norm.eps).rsqrt(), x)
        over = [dim for dim in range(x.ndim) if dim != 1]
        found = [(norm.weight, (signal * normed).sum(over))]
        return found if norm.bias is None else [*found, (norm.bias, signal.sum(over))]

    def conclude(self, held: Held) -> None:
        """Move the running statistics once, by those of the settled batch."""
        norm = self.module
        if not (norm.training and norm.track_running_stats and self in held.statistics):
            return
        mean, variance, count = held.statistics[self]
        norm.num_batches_tracked += 1
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        norm.running_var.lerp_((variance * count / max(1, count - 1)).to(norm.running_var), share)

    def _of_batch(self) -> bool:
        return self.module.training or not self.module.track_running_stats

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean and variance of each channel: the batch's in training, otherwise the running ones."""
        norm, count = self.module, x.numel() // x.shape[1]
        if self._of_batch():
            if count == 1:
                raise UserError(
                    f"layer {self.name} ({type(norm).__name__}) takes statistics over the batch: it needs more than "
                    "one number for each channel, a larger batch or `eval()`"
                )
            over = [dim for dim in range(x.ndim) if dim != 1]
            variance, mean = torch.var_mean(x, over, correction=0)
            return mean, variance, count
        return norm.running_mean.clone(), norm.running_var.clone(), count

    def _affine(self, x: Tensor, held: Held) -> tuple[Tensor, Tensor]:
        mean, variance, _ = held.statistics[self]
        scale = (variance + self.module.eps).rsqrt()
        if self.module.weight is not None:
            scale = scale * self.module.weight
        return self._wide(mean, x), self._wide(scale, x)

    @staticmethod
    def _wide(values: Tensor, x: Tensor) -> Tensor:
        """By channel, to be broadcast."""
        return values.view(-1, *[1] * (x.ndim - 2))


STAGES: dict[type[nn.Module], type[Stage]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv,
    nn.MaxPool2d: MaxPool,
    nn.AvgPool2d: AvgPool,
    nn.Flatten: Flatten,
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
}
DROPOUTS = (nn.Dropout, nn.Dropout2d)


def make_stage(name: str, module: nn.Module) -> Stage | None:
    """The stage of a layer; None for one that leaves its input as it is.

    Raises:
        UnsupportedNetworkError: There is none for it.
    """
    if isinstance(module, nn.Identity):
        return None
    if isinstance(module, DROPOUTS):
        return Dropout(name, module)
    kind = next((stage for layer, stage in STAGES.items() if type(module) is layer), None)
    if kind is None:
        known = ", ".join(layer.__name__ for layer in (*STAGES, *DROPOUTS))
        raise UnsupportedNetworkError(
            f"layer {name} ({type(module).__name__}) is neither an activation, which treats each number by itself, "
            f"nor one of {known}"
        )
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        raise UnsupportedNetworkError(f"layer {name} (Conv2d) must be padded with zeros, by a number")
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
        raise UnsupportedNetworkError(f"layer {name} (Flatten) must make one row for each sample")
    if isinstance(module, nn.MaxPool2d) and module.return_indices:
        raise UnsupportedNetworkError(f"layer {name} (MaxPool2d) must return no indices")
    return kind(name, module)


class Connection:
    """The stages between two layers of states: f(s), its transpose, and the gradients of its weights.

    Args:
        stages: In the order in which s goes through them; none of them for the identity.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        self.remembers = any(stage.remembers for stage in self.stages)

    def push(self, s: Tensor, held: Held) -> tuple[Tensor, list[Any]]:
        """Return f(s), and what `pull` has to know of s."""
        memory = []
        for stage in self.stages:
            s, known = stage.push(s, held)
            memory.append(known)
        return s, memory

    def pull(self, signal: Tensor, memory: Sequence[Any], held: Held, base: Tensor | None = None) -> Tensor:
        """Return base + (df/ds)^T signal, at the s of the memory."""
        for number in range(len(self.stages) - 1, -1, -1):
            stage = self.stages[number]
            if number == 0 and base is not None and isinstance(stage, Linear) and signal.ndim == 2:
                return stage.pull_onto(base, signal)
            signal = stage.pull(signal, memory[number], held)
        return signal if base is None else base + signal

    def gradients(self, s: Tensor, signal: Tensor, held: Held) -> Gradients:
        """Differentiate <signal, f(s)>, summed over the batch, with respect to the parameters."""
        taught = [n for n, stage in enumerate(self.stages) if any(True for _ in stage.module.parameters())]
        if not taught:
            return []
        inputs, memory = [], []
        for stage in self.stages:
            inputs.append(s)
            if taught[0] < len(self.stages) - 1 or stage is not self.stages[-1]:  # else nothing hears of its output
                s, known = stage.push(s, held)
                memory.append(known)
        found: Gradients = []
        for number in range(len(self.stages) - 1, taught[0] - 1, -1):
            stage = self.stages[number]
            found += stage.gradients(inputs[number], signal, held)
            if number > taught[0]:
                signal = stage.pull(signal, memory[number], held)
        return found


def _pair(size: int | tuple[int, int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)

"""Inference of a network and of what its nodes do alone, from a series of all nodes' states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from beyondprop.checks import check_number, check_whole
from beyondprop.dynamics.alternation import Alternation, Windows
from beyondprop.dynamics.checked import checked_components, checked_series
from beyondprop.dynamics.curvature import others_of
from beyondprop.dynamics.edges import Edges
from beyondprop.dynamics.guess import first_guess, fit_to_slopes
from beyondprop.dynamics.local_model import LocalModel
from beyondprop.dynamics.rollout import roll_out
from beyondprop.dynamics.smoothing import smooth
from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.solver import Solver

WORSE = 1.05  # a pass after which the residuals' variance has grown by this is undone, and windows stay as they were
LIKELY = 0.5  # an edge of a smaller probability is held at zero (Barbieri and Berger 2004: median probability model)
DRAWS = 3  # of the local model, from which the search is begun
LAST = "local model"  # the last pass: fitted once more, to the weights as they stand


class NetworkInference(Solver):
    """Backpropagation on Dynamical Networks (Tan, Correa, Stemler, Small, arXiv 2207.03093): weights, local dynamics.

    Every node follows the same unknown equation, and is pulled by others:

        dx_k/dt = f(x_k) + sum_j w_kj (x_j - x_k)        (the sum in the coupled components alone)

    f is a small neural network that all nodes share, and w is unknown. The series is cut into short windows. Rounds
    alternate: the weights are regressed by back-propagation through time over all windows; then the local model moves,
    by a damped Gauss-Newton step from which is taken out what weights could explain. Where each window begins is
    estimated along with everything else (multiple shooting): so noise is averaged over a window instead of being
    differentiated. Windows become longer from pass to pass, as long as they are explained as well as shorter ones.
    After each pass it is judged anew which edges there are. Because coupling acts through differences alone, rows of
    the coupling matrix sum to zero, and f cannot take over a part of it.

    Args:
        nodes: Their number, at least 2.
        components: Numbers of a node's state.
        interval: Time between two samples.
        coupled: Components that couple, each into itself, all by the same weights.
        period: Of a drive that all nodes feel, in units of time; 0 for none. f then sees its cosine and sine, counted
            from the first sample.
        hidden: Width of f's two hidden layers.
        windows: Steps of a window, pass by pass; the longer ones are left out where they do not help.
        rounds: Of the alternation in each pass, at most.
        sparse: Whether edges that are unlikely are held at zero in the next pass, and the others drawn to what edges
            were found to be like.
        substeps: Of the integration (Runge-Kutta, order 4) between two samples.
        sweeps: Over all weights, when it is drawn which there are; more help where nodes move alike or hardly move. By
            default 100 a node, above 16 nodes, where each costs more, 25,600 over their number; and at least 400.

    Attributes:
        weights: w_kj, from node j to node k, shape (nodes, nodes), zero diagonal.
        probability: That there is an edge, of the same shape.
        deviation: Standard deviation of the weights, given the series and that the model is right.
        local: f, from tensors.
        residual: Variance of what the windows leave, in units of each component's variance: that of the noise, if the
            model is right.
        length: Steps of the longest windows that were explained as well as shorter ones.

    Raises:
        UserError: A number is out of range.

    >>> NetworkInference(3, 2, windows=(8, 16)).passes
    ('first guess', 'windows of 8', 'windows of 16', 'local model')
    """

    classifies: ClassVar[bool] = False
    weights: Tensor
    probability: Tensor
    deviation: Tensor
    states: Tensor
    scale: Tensor
    residual: Tensor
    edges: Tensor
    length: Tensor
    lost: Tensor
    clock: Tensor

    def __init__(
        self,
        nodes: int,
        components: int,
        *,
        interval: float = 1.0,
        coupled: int | Sequence[int] = (0,),
        period: float = 0.0,
        hidden: int = 16,
        windows: int | Sequence[int] = (8, 16, 32, 48),
        rounds: int = 8,
        sparse: bool = True,
        substeps: int = 1,
        sweeps: int | None = None,
    ) -> None:
        super().__init__()
        check_whole(2, nodes=nodes)
        check_whole(1, components=components, hidden=hidden, rounds=rounds, substeps=substeps)
        sweeps = max(400, min(100 * nodes, 25600 // nodes)) if sweeps is None else sweeps
        check_whole(2, sweeps=sweeps)
        check_number(interval=interval, above=True)
        check_number(period=period)
        windows = tuple(windows) if isinstance(windows, Iterable) else (windows,)
        if not windows:
            raise UserError("windows must name at least one length")
        for window in windows:
            check_whole(2, windows=window)
        coupled = checked_components(coupled, components)
        self.nodes, self.components, self.interval, self.period = nodes, components, interval, period
        self.coupled, self.windows, self.rounds, self.substeps = coupled, windows, rounds, substeps
        self.local = LocalModel(components, 2 if period else 0, hidden)
        self.sparse, self.sweeps = sparse, sweeps
        self._plan = {f"windows of {n}": n for n in self.windows}
        self.passes = ("first guess", *self._plan, LAST)
        for name in ("weights", "probability", "deviation"):
            self.register_buffer(name, torch.zeros(nodes, nodes))
        self.register_buffer("scale", torch.ones(components))
        self.register_buffer("states", torch.zeros(0, 0, nodes, components))
        self.register_buffer("residual", torch.zeros(()))
        self.register_buffer("edges", torch.zeros(2))
        self.register_buffer("lost", torch.tensor(False))
        self.register_buffer("length", torch.tensor(windows[0]))
        self.register_buffer("clock", torch.tensor([interval, period], dtype=torch.float64))
        self._given: list[Tensor] = []

    @classmethod
    def supports_classifier(cls, network: nn.Module, example: Tensor) -> str | None:
        """It classifies nothing."""
        del network, example
        return "NetworkInference explains series of coupled nodes; it is no classifier"

    @classmethod
    def for_classifier(cls, network: nn.Module, example: Tensor, classes: int, **options: Any) -> Self:
        """Refuse: see `supports_classifier`."""
        del classes, options
        raise UnsupportedNetworkError(str(cls.supports_classifier(network, example)))

    def fit(
        self,
        x: Any,
        y: Tensor | None = None,
        *,
        batch_size: int = 1000,
        watch: Callable[[str], object] = lambda _part: None,
    ) -> Self:
        """Infer from a series, or from several of one length.

        Args:
            x: States of all nodes at equal intervals: an array or a tensor of shape (time, nodes, components), or
                (series, time, nodes, components).
            y: Not used.
            batch_size: Not used.
            watch: Called with the name of each of `passes` before it, such as `print`: fits take minutes.

        Raises:
            UserError: The shape is another one, the series is shorter than the longest window, a node does not move,
                or single precision does not resolve how a component moves.
            NonFiniteError: There is NaN or infinity in it.
        """
        del y, batch_size
        given = checked_series(x, nodes=self.nodes, components=self.components, several=True)
        size, moves = np.abs(given).max(tuple(range(given.ndim - 1))), given.std(tuple(range(given.ndim - 1)))
        if (np.finfo(np.float32).eps * size > 1e-3 * moves).any() and moves.min() > 0:
            raise UserError("a component moves by too little beside its mean for single precision: subtract the mean")
        series = torch.from_numpy(given).to(self.weights)
        series = series[None] if series.ndim == 3 else series
        return self.fit_batches([(series[:, :-1], series[:, 1:])], watch=watch)

    def begin(self, part: str) -> None:
        """Forget what an unfinished pass has read."""
        self._given = []

    def absorb(self, x: Tensor, y: Tensor, part: str) -> None:
        """Take in series (series, time, nodes * components), and the same one step later."""
        x, y = (each.view(*each.shape[:2], self.nodes, self.components) for each in (x, y))
        self._given.append(torch.cat((x, y[:, -1:]), dim=1))

    def conclude(self, part: str) -> None:
        """Guess, or alternate on windows."""
        series, self._given = torch.cat(self._given), []
        least = max(*self.windows, 7) + 1
        if series.shape[1] < least:
            raise UserError(
                f"the series has {series.shape[1]} samples, and {least} are needed: as many as the longest window of "
                f"{max(self.windows)} steps has, and 8 to smooth; give a longer series, or shorter windows"
            )
        if part == "first guess":
            self._guess(series)
        elif part == LAST:
            self._search(
                series, int(self.length), torch.zeros_like(self.weights, dtype=torch.bool), self.rounds, held=False
            )
        else:
            self._alternate(series, self._plan[part])

    def forward(self, x: Tensor) -> Tensor:
        """Predict one sample ahead at every sample, of series (series, time, nodes * components) from time zero."""
        states = x.view(*x.shape[:2], self.nodes, self.components)
        moments = self._drive(torch.arange(x.shape[1], device=x.device), 1)
        drive = None if moments is None else moments.repeat(len(x), 1, 1)
        ahead = self._rolled(states.flatten(0, 1), 1, drive)
        return ahead[:, 1].view(x.shape)

    @torch.no_grad()
    def predict(self, start: Any, steps: int, *, at: int = 0) -> Tensor:
        """Run the network freely.

        Args:
            start: States of all nodes, shape (nodes, components), or (starts, nodes, components).
            steps: Samples after the start.
            at: The number of the sample that the start is, for driven systems.

        Returns:
            The start and what follows, shape (steps + 1, nodes, components), or (starts, steps + 1, ...).

        Raises:
            UserError: The start has another shape, or nothing was fitted yet.
        """
        check_whole(1, steps=steps)
        if not self.states.numel():
            raise UserError("nothing was inferred yet: call fit first")
        try:
            begin = torch.as_tensor(start).to(self.weights)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"a start must be an array of numbers, and this is none: {error}") from error
        wanted = f"({self.nodes}, {self.components})"
        if begin.shape[-2:] != (self.nodes, self.components) or begin.ndim not in (2, 3):
            raise UserError(f"start must have shape {wanted}, or (starts, {wanted[1:]}; got {tuple(begin.shape)}")
        if not begin.isfinite().all():
            raise NonFiniteError("the start holds NaN or infinity")
        drive = self._drive(torch.tensor([at]), steps)
        many = begin if begin.ndim == 3 else begin[None]
        found = self._rolled(many, steps, None if drive is None else drive.expand(len(many), -1, -1))
        return found if begin.ndim == 3 else found[0]

    def _guess(self, series: Tensor) -> None:
        self.lost.fill_(False)
        still = (series[..., list(self.coupled)].flatten(0, 1).std(0) == 0).any(1)
        if still.any():
            node = int(still.int().argmax())
            raise UserError(f"node {node} does not move in a component that couples: leave it out, or let it move")
        found = smooth(series.double().cpu().numpy(), self.interval)
        states, slopes = (torch.from_numpy(part).to(series) for part in (found.states, found.slopes))
        self.states = states.clone()  # the search writes into them
        self.scale.copy_(states.flatten(0, 2).std(0).clamp(min=1e-12))
        if self.residual:
            self.local.reset_parameters()  # another fit begins anew
        drive = self._drive(torch.arange(series.shape[1]), 1)
        at_samples = None if drive is None else drive[:, 0].repeat(len(series), 1)
        flat = states.flatten(0, 1), slopes.flatten(0, 1)
        edges = first_guess(self.local, *flat, drive=at_samples, coupled=self.coupled, sweeps=self.sweeps)
        self._judge(edges)
        # Fits from different draws end at different ends. Which is best, windows tell; slopes that are smoothed do not.
        tried: list[tuple[float, dict[str, Tensor]]] = []
        weights = self.weights.double().cpu().numpy()
        for draw in range(DRAWS):
            if draw:
                self.local.reset_parameters()
                self.states = states.clone()
                fit_to_slopes(self.local, *flat, weights, drive=at_samples, coupled=self.coupled)
            self.residual.zero_()
            self._search(series, self.windows[0], self._likely(), rounds=3)
            tried.append((float(self.residual), {name: value.clone() for name, value in self.state_dict().items()}))
        self.load_state_dict(min(tried, key=lambda each: each[0])[1])

    def _alternate(self, series: Tensor, length: int) -> None:
        if self.lost:
            return
        search = self._search(series, length, self._likely(), self.rounds)
        if search is not None:
            self._judge(search.posterior(self.sweeps))

    def _likely(self) -> Tensor:
        """The weights that may differ from zero."""
        others = ~torch.eye(self.nodes, dtype=torch.bool, device=self.weights.device)
        return others & (self.probability > LIKELY) if self.sparse else others

    def _search(
        self, series: Tensor, length: int, allowed: Tensor, rounds: int, *, held: bool = True
    ) -> Alternation | None:
        """Alternate on windows of a length, or shorter ones, and take over the local model and the states.

        Args:
            series: All of them.
            length: Steps of a window.
            allowed: Weights that may move.
            rounds: At most.
            held: Whether the others are zero; else they stay as they are.

        Returns:
            The search; None where it was lost, and what was known before stands.
        """
        while True:
            first, search = self._windows(series, length, allowed, held)
            if search.usable:
                break
            if length <= 2:
                raise NonFiniteError("no window can be integrated: sample at shorter intervals, or raise `substeps`")
            length //= 2  # longer than what the model can be integrated over as it stands
        before = {name: value.clone() for name, value in self.state_dict().items()}
        search.run(rounds)
        residual = search.noise
        if float(self.residual) and not residual < WORSE * float(self.residual):
            self.load_state_dict(before)
            self.lost.fill_(True)
            return None
        self.residual.fill_(residual)
        self.length.fill_(length)
        explained = search.states.unflatten(0, (len(series), len(first)))[:, :, :-1].flatten(1, 2)
        self.states[:, : explained.shape[1]] = explained
        return search

    def _judge(self, edges: Edges) -> None:
        """Take over weights, unlikely ones shrunk, and how sure they are."""
        others = others_of(self.nodes, self.weights.device)
        self.edges.copy_(torch.tensor([edges.centre, edges.width]))
        named = {"weights": edges.mean, "probability": edges.probability, "deviation": edges.deviation}
        for name, found in named.items():
            getattr(self, name).zero_().scatter_(1, others, torch.from_numpy(found).to(self.weights))

    def _windows(self, series: Tensor, length: int, allowed: Tensor, held: bool) -> tuple[Tensor, Alternation]:
        """The windows' first samples, and the search over them from where things stand."""
        first = torch.arange((series.shape[1] - 1) // length, device=series.device) * length
        index = first[:, None] + torch.arange(length + 1, device=series.device)
        drive = self._drive(first, length)
        windows = Windows(
            series[:, index].flatten(0, 1),
            self.states[:, first].flatten(0, 1),
            self.scale,
            self.interval,
            self.coupled,
            self.substeps,
            None if drive is None else drive.repeat(len(series), 1, 1),
        )
        weights = self.weights * allowed if held else self.weights
        centre, width = self.edges.tolist() if self.sparse else (0.0, math.inf)
        return first, Alternation(self.local, weights, allowed, windows, centre=centre, width=width)

    def _rolled(self, starts: Tensor, steps: int, drive: Tensor | None) -> Tensor:
        return roll_out(
            self.local,
            self.weights,
            starts,
            steps,
            self.interval,
            coupled=self.coupled,
            drive=drive,
            substeps=self.substeps,
        )

    def _drive(self, first: Tensor, steps: int) -> Tensor | None:
        """Cosine and sine of the drive's phase at the start, middle and end of all substeps from some samples on."""
        if not self.period:
            return None
        halves = torch.arange(2 * steps * self.substeps + 1) / (2 * self.substeps)
        phase = (first.cpu()[:, None] + halves).double() * (2 * math.pi * self.interval / self.period)
        return torch.stack((phase.cos(), phase.sin()), dim=2).to(self.weights)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """The states that are explained have the length of the series, which only the fit knows; times must agree."""
        clock = state_dict.setdefault(f"{prefix}clock", self.clock)
        if not torch.allclose(clock.double(), self.clock.double(), rtol=1e-6, atol=0):
            interval, period = clock.tolist()
            raise UserError(
                f"this was inferred with interval={interval:g}, period={period:g}: give NetworkInference the same"
            )
        saved = state_dict.get(f"{prefix}states")
        if isinstance(saved, Tensor) and saved.shape[2:] == self.states.shape[2:]:
            self.states = self.states.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

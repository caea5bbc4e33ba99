"""Marked events in time: GCHP, Hawkes processes by maximum likelihood, RMTPP and THP on the same events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Recipe, Schedule, Settings, SolverSettings
from beyondprop.recipes.user_file import UserFile

if TYPE_CHECKING:
    from beyondprop.data import Splits
    from beyondprop.point_processes.process import EventModel

Source = Literal["simulated", "hawkes", "stackoverflow", "bookorder", "file"]


@dataclass(frozen=True, kw_only=True)
class EventSettings(UserFile, SolverSettings):
    """Settings of every model of events."""

    holds = "CSV with columns sequence, time and mark, one line an event, or npz with times, marks and offsets"
    file: str = ""
    """CSV with columns sequence, time and mark, or npz with times, marks and offsets; of events `file`."""

    batch_size: int = 64
    """Pieces of sequences in a batch."""
    validation: int = 0
    """Pieces held out of the training set, the last ones, to choose settings by; 0 trains on all of it."""
    events: Source = "file"
    """Which: simulated here, a set in $BEYONDPROP_DATA/point-processes, or a file of your own."""
    columns: tuple[str, ...] = ("sequence", "time", "mark")
    """What a CSV file calls these three. A file without a column sequence is one sequence."""
    share: float = 0.8
    """Of a file's sequences that are trained on, the first ones; of a single sequence, of its events."""
    resolution: float = 0.0
    """Tick of the clock by which a file's times were taken; each is spread over it. 0 for exact times."""
    first: int = 3
    """Events at the beginning of each sequence that are not predicted."""
    history: int = 32
    """Events before the first target of a piece that the model can see."""
    targets: int = 64
    """Targets of a piece."""

    @property
    def missing(self) -> str:
        """The flag that a command cannot do without, where events come from a file."""
        return super().missing if self.events == "file" else ""

    def data(self) -> Splits:
        """Read or simulate the events, and cut them into pieces.

        Raises:
            UserError: No file is named, or it cannot be used.
        """
        from beyondprop.data import Splits
        from beyondprop.data.event_files import load_events, read_events
        from beyondprop.errors import UserError

        if self.events == "simulated":
            train, test = (_simulated(count, seed) for count, seed in ((60, 0), (40, 1)))
        elif self.events == "file":
            file = self.checked_file()
            if len(self.columns) != 3:
                raise UserError("--columns takes three names: those of the sequence, the time and the mark")
            whole = read_events(file, columns=self.columns)
            train, test = (whole.spread(self.resolution, seed=0) if self.resolution else whole).divide(self.share)
        else:
            train, test = load_events(self.events)
        return Splits(
            *(part.pieces(history=self.history, targets=self.targets, first=self.first) for part in (train, test))
        )


@dataclass(frozen=True, kw_only=True)
class GCHPSettings(EventSettings, Settings):
    """Settings of GCHP, whose defaults are those of the paper's code."""

    batch_size: int = 3000
    """Events in a batch."""
    validation: int = 0
    """Events held out of the training set, the last ones, to choose settings by; 0 trains on all of it."""
    epochs: int = 200
    weight_decay: float = 1e-8
    history: int = 3
    """Events of a window, the nodes of its graph."""
    targets: int = 1
    """Targets of a piece; more of them only change what a batch is."""
    hidden: int = 32
    """Width of the layers."""
    layers: int = 2
    """Of the encoder, 1 or 2."""
    encoder: Literal["gcn", "lstm", "transformer", "gcn-lstm", "gcn-transformer"] = "gcn"
    """Graph convolutions; or the paper's ablations."""
    kernel: Literal["exponential", "gaussian", "linear", "spherical"] = "exponential"
    """Of time, between the nodes."""
    bandwidth: float = 2.0
    """Of the kernel, for times in mean gaps."""
    normalisations: int = 2
    """How often the edges are normalised from both sides."""
    times: bool = False
    """Whether nodes and readout see the logarithms of gaps and ages beside the marks."""
    gap: Literal["exponential", "rayleigh", "gamma", "weibull", "log-normal", "mixture"] = "exponential"
    """Distribution of the gap: by its mean alone, or a mixture of log-normal distributions."""
    shape: float = 1.0
    """Of Gamma and Weibull, or the log-normal's deviation."""
    learned_shape: bool = False
    """Whether the shape is learned."""
    components: int = 8
    """Of the mixture."""
    loss: Literal["likelihood", "squared"] = "likelihood"
    """Of the gap."""
    eta: float = 1.0
    """Weight of the gap's loss."""
    theta: float = 1.0
    """Weight of the mark's loss."""
    dropout: float = 0.1
    """After each layer."""


@dataclass(frozen=True, kw_only=True)
class HawkesSettings(EventSettings):
    """Settings of a Hawkes process by maximum likelihood."""

    decays: tuple[float, ...] = (2.0,)
    """Of the kernels, for times in mean gaps; where fits of them begin."""
    fit_decays: bool = True
    """Whether they are fitted, too."""
    iterations: int = 500
    """Most of L-BFGS."""


@dataclass(frozen=True, kw_only=True)
class RMTPPSettings(EventSettings, Settings):
    """Settings of RMTPP."""

    epochs: int = 30
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    lr_schedule: Schedule = "one-cycle"
    hidden: int = 64
    """Length of the state."""
    embedding: int = 16
    """Length of a mark's vector."""


@dataclass(frozen=True, kw_only=True)
class THPSettings(EventSettings, Settings):
    """Settings of THP."""

    epochs: int = 30
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    lr_schedule: Schedule = "one-cycle"
    hidden: int = 32
    """Width of the layers."""
    layers: int = 2
    """Their number."""
    heads: int = 2
    """Of attention."""
    dropout: float = 0.1
    """In the layers."""


def build_gchp(settings: GCHPSettings, splits: Splits) -> Experiment:
    """Build GCHP."""
    from beyondprop.point_processes import GCHP

    shaped = settings.gap in ("gamma", "weibull", "log-normal")
    model = GCHP.for_events(
        splits.train,  # type: ignore[arg-type]
        window=settings.history,
        shape=settings.shape if shaped else None,
        learned_shape=settings.learned_shape and shaped,
        **_named(settings, "hidden layers encoder kernel bandwidth normalisations times gap components"),
        **_named(settings, "loss eta theta dropout"),
    )
    return experiment(model, splits)


def build_hawkes(settings: HawkesSettings, splits: Splits) -> Experiment:
    """Build the Hawkes process."""
    from beyondprop.point_processes import HawkesMLE

    options = _named(settings, "decays fit_decays iterations")
    return experiment(HawkesMLE.for_events(splits.train, **options), splits)  # type: ignore[arg-type]


def build_rmtpp(settings: RMTPPSettings, splits: Splits) -> Experiment:
    """Build RMTPP."""
    from beyondprop.point_processes import RMTPP

    return experiment(RMTPP.for_events(splits.train, **_named(settings, "hidden embedding")), splits)  # type: ignore[arg-type]


def build_thp(settings: THPSettings, splits: Splits) -> Experiment:
    """Build THP."""
    from beyondprop.point_processes import THP

    options = _named(settings, "hidden layers heads dropout")
    return experiment(THP.for_events(splits.train, **options), splits)  # type: ignore[arg-type]


def experiment(model: EventModel, splits: Splits) -> Experiment:
    """A model with its goodness of fit, and what no model reaches, as further figures."""
    from beyondprop.point_processes.baselines import baselines
    from beyondprop.point_processes.goodness import goodness_of_fit
    from beyondprop.training.goodness_picture import draw_goodness

    floors = baselines(splits.train, splits.test)  # type: ignore[arg-type]

    def measures(batches: Any) -> dict[str, Any]:
        return {"ks_distance": goodness_of_fit(model, batches).distance, **floors}

    def files(batches: Any) -> dict[str, bytes]:
        found = goodness_of_fit(model, batches)
        return {"goodness.png": draw_goodness({type(model).__name__: found.gaps}, splits.test.name)}

    return Experiment(model, measures=measures, files=files)  # type: ignore[arg-type]


def _named(settings: Any, names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names.split()}


def _simulated(count: int, seed: int) -> Any:
    """Three kinds: the first excites itself, the second follows the first, the third comes by itself."""
    from beyondprop.point_processes import simulate_hawkes

    excitation = [[0.5, 0.0, 0.0], [0.4, 0.2, 0.0], [0.0, 0.0, 0.1]]
    return simulate_hawkes([0.3, 0.1, 0.3], excitation, 2.0, until=60.0, sequences=count, seed=seed)


def _gchp_choices(settings: GCHPSettings) -> tuple[str, ...]:
    """What is settled where the paper is silent, or otherwise than its code does."""
    told = ["softplus in place of ReLU for the mean gap", "gap and mark weighted as the likelihood has them"]
    told += ["heads drawn as torch's", "short histories padded in place of left out", "batches shuffled"]
    default = GCHPSettings(lr_schedule=settings.lr_schedule)
    for name in ("batch_size", "epochs", "history", "learning_rate", "gap", "normalisations", "times", "lr_schedule"):
        if getattr(settings, name) != getattr(default, name):
            told.append(f"{name.replace('_', ' ')} {getattr(settings, name)}, paper's code {getattr(default, name)}")
    return tuple(told)


OURS = GCHPSettings(
    epochs=12,
    batch_size=256,
    learning_rate=3e-3,
    lr_schedule="one-cycle",
    history=10,
    gap="mixture",
    normalisations=1,
    times=True,
)
SETS: dict[Source, str] = {
    "simulated": "three kinds of events, simulated",
    "hawkes": "ten kinds of events that excite each other",
    "stackoverflow": "Stack Overflow badges",
    "bookorder": "orders to buy and to sell",
    "file": "a file of your own",
}
# Pieces of the models that read on from event to event, and what differs from set to set.
READING: dict[Source, dict[str, Any]] = {
    "simulated": {"history": 3, "targets": 256, "batch_size": 16},
    "hawkes": {"history": 3, "targets": 425, "batch_size": 8},
    "stackoverflow": {"history": 40, "targets": 40, "batch_size": 64},
    "bookorder": {"history": 64, "targets": 64, "batch_size": 64},
    "file": {"history": 64, "targets": 64, "batch_size": 16},
}
# Attention pays for the square of a piece's length.
ATTENTIVE: dict[Source, dict[str, Any]] = {
    "simulated": {"history": 32, "targets": 64, "batch_size": 16},
    "hawkes": {"history": 32, "targets": 64, "batch_size": 32},
}
LARGE: dict[str, Any] = {"epochs": 3, "batch_size": 512}
BANDWIDTH = 5.5  # of the synthetic Hawkes set, whose mean gap is 2.77: the 2 of the paper's code in the set's own unit
SETTINGS: dict[Source, GCHPSettings] = {
    "simulated": replace(OURS, epochs=6, batch_size=128),
    "hawkes": replace(OURS, bandwidth=BANDWIDTH),
    "stackoverflow": replace(OURS, **LARGE),
    "bookorder": replace(OURS, **LARGE),
    "file": OURS,
}
PAPERS: dict[Source, GCHPSettings] = {
    "simulated": replace(GCHPSettings(), epochs=30, batch_size=128),
    "hawkes": replace(GCHPSettings(), bandwidth=BANDWIDTH),
    "stackoverflow": replace(GCHPSettings(), epochs=5),
    "bookorder": replace(GCHPSettings(), epochs=5),
}


def recipes() -> tuple[Recipe, ...]:
    """Every model on every set."""
    made: list[Recipe] = []

    def add(variant: str, summary: str, settings: Any, build: Callable[[Any, Splits], Experiment], **more: Any) -> None:
        made.append(Recipe(f"gchp/{variant}", summary, variant, settings, build, data=type(settings).data, **more))

    for events, about in SETS.items():
        name = "csv" if events == "file" else events
        chosen = replace(SETTINGS[events], events=events)
        add(name, f"graph convolutions on {about}", chosen, build_gchp, choices=_gchp_choices)
        if events in PAPERS:
            paper = replace(PAPERS[events], events=events)
            add(f"{name}-paper", f"the same by the paper's recipe: {about}", paper, build_gchp, choices=_gchp_choices)
        short = {"epochs": 5} if events in ("stackoverflow", "bookorder") else {}
        reading: dict[str, Any] = {"events": events, **READING[events], **short}
        decays = (0.05, 1.0, 20.0) if events in ("stackoverflow", "bookorder") else (2.0,)
        hawkes = HawkesSettings(decays=decays, fit_decays=len(decays) == 1, events=events, **READING[events])
        peers: tuple[tuple[str, str, Any, Any], ...] = (
            ("mle", "a Hawkes process by maximum likelihood", hawkes, build_hawkes),
            ("rmtpp", "RMTPP, a recurrent process", RMTPPSettings(**reading), build_rmtpp),
            ("thp", "THP, a self-attentive process", THPSettings(**reading | ATTENTIVE.get(events, {})), build_thp),
        )
        for suffix, model, settings, build in peers:
            add(f"{name}-{suffix}", f"{model}: {about}", settings, build)
    return tuple(made)


RECIPES = recipes()

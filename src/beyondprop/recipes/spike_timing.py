"""Back-propagation through exact spike times (arXiv 2211.16113), and the same widths without spikes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from beyondprop.recipe import Experiment, Recipe, Schedule, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beyondprop.data import ImageSet, Splits


@dataclass(frozen=True, kw_only=True)
class SpikeTimingSettings(Settings):
    """Settings of a network of spiking neurons; times are in units of tau_s where that is 1."""

    method: Literal["spikes", "perceptron"] = "spikes"
    """Spiking neurons; or ReLUs in their place, with cross-entropy: the baseline."""
    lr_schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    widths: tuple[int, ...] = (350,)
    """Widths of the hidden layers."""
    code: Literal["first-spike", "count"] = "first-spike"
    """What the output says: which neuron spikes first, or which spikes most often."""
    spikes: int = 1
    """Most spikes of a hidden neuron."""
    output_spikes: int = 1
    """Most spikes of an output neuron."""
    tau_m: float = 2.0
    """Time constant of the membrane; 0 for infinite."""
    tau_s: float = 1.0
    """Time constant of the current."""
    window: float = 0.7
    """Time of the latest input spike."""
    start: float = 0.0
    """Time of the earliest input spike."""
    silent: float = 0.1
    """Inputs of up to this level, between 0 and 1, give no spike; below 0 all spike."""
    bias: float = 0.0
    """Time of one more input spike."""
    jitter: float = 0.0
    """Standard deviation of noise on the input spikes' times in training."""
    dropout: float = 0.0
    """Share of the input spikes that are left out in training, at random."""
    active: float = 0.2
    """Share of the inputs that spike, for the initial weights."""
    expected: float = 0.5
    """Spikes of a hidden neuron, for the initial weights behind it."""
    drive: float = 4.0
    """Mean of the initial weights, see `SpikingLinear`."""
    spread: float = 1.5
    """Deviation of the initial weights."""
    loss_tau: float = 0.05
    """Unit of time of the scores by first spikes."""
    early: float = 0.0
    """How strongly the right output neuron is pulled to be early."""
    true_count: float = 15.0
    """Spikes that the right output neuron is to have."""
    false_count: float = 3.0
    """Spikes that the others are to have."""
    least_slope: float = 0.1
    """Of V at a spike, by which gradients are divided at least, in thresholds per tau_s."""
    lift: float = 2.0
    """How silent output neurons learn that they should spike, see `SpikingLinear`."""
    bump: float = 0.01
    """How neurons that are mostly silent learn to spike."""
    silence: float = 0.9
    """Share of a batch above which a neuron's silence counts."""


def scaled(images: ImageSet, level: float) -> Tensor:
    """What a level of 0 to 1 is for each feature of normalised images, whose own range is 0 to 1."""
    import torch

    from beyondprop.data import Statistics

    statistics = Statistics.of(images)
    divisor = torch.where(statistics.std > 0, statistics.std, 1.0)
    channels = ((level - statistics.mean) / divisor).float()
    return channels.repeat_interleave(images.images[0].numel() // len(channels))


def make_network(settings: SpikeTimingSettings, images: ImageSet) -> nn.Module:
    """Make the network, of spiking neurons or of ReLUs."""
    import itertools

    from torch import nn

    from beyondprop.layers.spiking.encoders import LatencyEncoder
    from beyondprop.layers.spiking.readouts import FirstSpike, SpikeCount
    from beyondprop.networks.spiking import spiking_perceptron, time_constants

    features = images.images[0].numel()
    if settings.method == "perceptron":
        widths = itertools.pairwise((features, *settings.widths, images.classes))
        layers = [layer for before, after in widths for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers[:-1])
    encoder = LatencyEncoder(
        settings.window,
        start=settings.start,
        low=scaled(images, 0.0),
        high=scaled(images, 1.0),
        silent=settings.silent,
        bias=settings.bias,
        jitter=settings.jitter,
        dropout=settings.dropout,
    )
    counting = settings.code == "count"
    return spiking_perceptron(
        encoder,
        features + 1,
        images.classes,
        SpikeCount() if counting else FirstSpike(settings.loss_tau, latest=5 * settings.window),
        hidden=settings.widths,
        spikes=settings.spikes,
        output_spikes=settings.output_spikes,
        active=settings.active,
        expected=settings.expected,
        **time_constants(settings.tau_m, settings.tau_s),
        drive=settings.drive,
        spread=settings.spread,
        least_slope=settings.least_slope,
        lift=settings.lift,
        bump=settings.bump,
        silence=settings.silence,
    )


def build(settings: SpikeTimingSettings, splits: Splits) -> Experiment:
    """Build the network under its rule, with Adam."""
    from torch.optim import Adam

    from beyondprop.layers.spiking.readouts import FirstSpikeLoss, SpikeCountLoss
    from beyondprop.rules.signals.backprop import Backprop
    from beyondprop.rules.signals.spike_timing import SpikeTiming

    network = make_network(settings, splits.train)
    if settings.method == "perceptron":
        rule = Backprop(network)
        return Experiment(rule, optimizer=_adam(Adam, rule, settings))
    loss = (
        SpikeCountLoss(settings.true_count, settings.false_count)
        if settings.code == "count"
        else FirstSpikeLoss(settings.early)
    )
    rule = SpikeTiming(network, loss)
    return Experiment(
        rule,
        optimizer=_adam(Adam, rule, settings),
        measures=partial(spike_measures, network),
        files=partial(spike_files, network),
    )


def _adam(adam: Any, rule: nn.Module, settings: SpikeTimingSettings) -> Any:
    return adam(rule.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def spike_measures(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Count the spikes of a sample by layer, and the share of neurons that are silent throughout."""
    import torch

    from beyondprop.layers.spiking.linear import SpikingLinear

    layers = [module for module in network.children() if isinstance(module, SpikingLinear)]
    totals, fired, samples = [0] * len(layers), [torch.zeros(0)] * len(layers), 0
    for x, _ in batches:
        times, samples, place = x, samples + len(x), 0
        for module in network.children():
            times = module(times)
            if isinstance(module, SpikingLinear):
                finite = torch.isfinite(times)
                totals[place] += int(finite.sum())
                ever = finite.any(2).any(0)
                fired[place] = ever if not len(fired[place]) else fired[place] | ever
                place += 1
    return {
        "spikes_per_sample": [total / samples for total in totals],
        "never_spiking": [1 - float(ever.float().mean()) for ever in fired],
    }


def spike_files(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, bytes]:
    """Draw a raster of the first test sample, and the potentials of its output neurons."""
    from beyondprop.layers.spiking.linear import SpikingLinear
    from beyondprop.training.spikes import draw_membranes, draw_raster

    x, _ = next(iter(batches))
    times, found, last = x[:1], [], None
    for number, module in enumerate(network.children()):
        if isinstance(module, SpikingLinear):
            last = (module, times)
        times = module(times)
        if times.ndim == 3:
            found.append(("input" if number == 0 else f"layer {number}", times[0].detach().cpu()))
    assert last is not None
    title = "First test sample of the trained network"
    return {"raster.png": draw_raster(found, title), "membranes.png": draw_membranes(*last, title)}


def choices(settings: SpikeTimingSettings) -> tuple[str, ...]:
    """Name what is settled where the paper is not open to us, or silent."""
    return (
        "neurons, loss and settings are ours: the paper's own are not public",
        "images normalised for the baseline, scaled to 0..1 for the encoder",
    )


PLAIN = SpikeTimingSettings(epochs=20, batch_size=128, learning_rate=1e-3)
# Noise and lost spikes, chosen on held-out images: without them the training images are learned by heart.
SINGLE = replace(PLAIN, epochs=30, learning_rate=5e-3, jitter=0.1, dropout=0.2)
MULTI = replace(SINGLE, epochs=20, widths=(800,), spikes=4, dropout=0.3)
COUNT = replace(
    PLAIN,
    epochs=100,
    batch_size=50,
    widths=(800,),
    code="count",
    spikes=30,
    output_spikes=30,
    expected=2.0,
)
DIGITS = replace(
    PLAIN, epochs=30, batch_size=64, learning_rate=1e-2, widths=(64,), bump=0.0, lift=0.5, spikes=4, active=0.5
)
YIN_YANG = replace(
    PLAIN,
    epochs=60,
    batch_size=100,
    learning_rate=2e-2,
    bump=0.0,
    lift=0.5,
    widths=(120,),
    window=2.0,
    silent=-1.0,
    active=1.0,
    start=0.15,
    bias=0.9,
)
VARIANTS: dict[str, tuple[str, str, SpikeTimingSettings]] = {
    "digits": ("digits", "64 hidden neurons on scikit-learn's digits", DIGITS),
    "mnist": ("mnist", "784-350-10 with one spike a neuron on MNIST", SINGLE),
    "mnist-multi": ("mnist", "784-800-10 with up to four spikes a hidden neuron on MNIST", MULTI),
    "mnist-count": ("mnist", "784-800-10 with up to 30 spikes a neuron on MNIST, spikes counted", COUNT),
    "fashion-mnist": ("fashion-mnist", "784-400-400-10 on Fashion-MNIST", replace(SINGLE, widths=(400, 400), spikes=4)),
    "yin-yang": ("yin-yang", "120 hidden neurons on the Yin-Yang set", YIN_YANG),
}


def _recipe(name: str, variant: str, summary: str, settings: SpikeTimingSettings) -> Recipe:
    dataset = VARIANTS[variant][0]
    chosen = choices if settings.method == "spikes" else lambda _settings: ()
    return Recipe(name, summary, dataset, settings, build, choices=chosen)


RECIPES = tuple(
    _recipe(f"spike-timing/{variant}", variant, summary, settings)
    for variant, (_, summary, settings) in VARIANTS.items()
)
RELU_RATES = {"digits": 1e-2, "yin-yang": 2e-2}  # chosen on held-out samples, as those of the spikes were
BASELINES = tuple(
    _recipe(
        f"bp/{variant}-spike-timing",
        variant,
        f"ReLUs in the widths of spike-timing/{variant}",
        replace(settings, method="perceptron", learning_rate=RELU_RATES.get(variant, 1e-3)),
    )
    for variant, (_, _, settings) in VARIANTS.items()
)

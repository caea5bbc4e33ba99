"""What spiking layers do beside their equation: silence, order, caps on gradients, encoders, readouts, refusals."""

import math

import pytest
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.layers.spiking.encoders import LatencyEncoder, PoissonEncoder, PopulationEncoder
from beyondprop.layers.spiking.linear import SpikingLinear
from beyondprop.layers.spiking.membrane import Membrane
from beyondprop.layers.spiking.readouts import FirstSpike, FirstSpikeLoss, SpikeCount, SpikeCountLoss

INF = math.inf


def layer(weight, **options):
    weight = torch.as_tensor(weight)
    made = SpikingLinear(weight.shape[1], weight.shape[0], **options).to(weight.dtype)
    made.weight.data.copy_(weight)
    return made


def test_silent_neurons_teach_their_inputs_nothing():
    neurons = layer([[5.0, 5.0], [-1.0, 0.1]], spikes=3)
    times = torch.tensor([[0.1, 0.4]], requires_grad=True)
    found = neurons(times)
    assert found[0, 1].isinf().all()
    found[0, 0][found[0, 0].isfinite()].sum().backward()
    assert (neurons.weight.grad[1] == 0).all()
    assert times.grad.isfinite().all()
    assert neurons(torch.full((2, 2), INF)).isinf().all()
    neurons(torch.full((2, 2), INF)).sum().backward()
    assert neurons.weight.grad.isfinite().all()


@pytest.mark.parametrize("spikes", [1, 3])
def test_an_empty_batch_gives_an_empty_output(path, spikes):
    """Forwards and backwards, with every remedy for silence, as other layers of torch take it."""
    encoder, readouts = LatencyEncoder(2.0, bias=0.0), (FirstSpike(), SpikeCount())
    neurons = SpikingLinear(5, 3, spikes=spikes, lift=0.5, bump=0.5)
    times = encoder(torch.rand(0, 4)).requires_grad_()
    found = neurons(times)
    assert found.shape == (0, 3, spikes)
    for readout in readouts:
        scores = readout(found)
        assert scores.shape == (0, 3)
        scores.sum().backward(retain_graph=True)
    assert times.grad.shape == (0, 5, 1)
    assert (neurons.weight.grad == 0).all()
    assert neurons.potential(times, torch.zeros(2)).shape == (0, 3, 2)


def test_later_input_spikes_have_no_effect_on_earlier_spikes():
    neurons = layer([[6.0, 1.0]], spikes=1)
    times = torch.tensor([[0.0, 3.0]], requires_grad=True)
    found = neurons(times)
    assert found.item() < 3.0
    found.sum().backward()
    assert times.grad[0, 1] == 0
    assert times.grad[0, 0] == pytest.approx(1.0)  # all that has been moves together
    assert neurons.weight.grad[0, 1] == 0


@pytest.mark.parametrize("spikes", [1, 6])
def test_a_shift_in_time_shifts_every_spike(spikes):
    torch.manual_seed(0)
    neurons = SpikingLinear(9, 5, spikes=spikes, drive=6.0).double()
    times = 3 * torch.rand(4, 9, 2, dtype=torch.float64)
    torch.testing.assert_close(neurons(times + 100.0), neurons(times) + 100.0)


def test_order_of_inputs_and_simultaneous_spikes():
    torch.manual_seed(1)
    neurons = SpikingLinear(8, 5, spikes=6, drive=8.0).double()
    times = torch.rand(3, 8, 2, dtype=torch.float64).round(decimals=1)  # many at once
    found = neurons(times)
    order = torch.randperm(8)
    turned = layer(neurons.weight.detach()[:, order], spikes=6)
    torch.testing.assert_close(turned(times[:, order].flip(2)), found)
    both = layer(torch.tensor([[2.0, 3.0]]), spikes=4)(torch.tensor([[0.5, 0.5]]))
    one = layer(torch.tensor([[5.0]]), spikes=4)(torch.tensor([[0.5]]))
    torch.testing.assert_close(both, one)
    samples = neurons(times.flip(0)).flip(0)
    torch.testing.assert_close(samples, found)


def test_float32_and_float64_agree_far_from_the_origin_of_time():
    torch.manual_seed(2)
    neurons = SpikingLinear(20, 6, spikes=4, drive=6.0)
    times = 300 + torch.rand(2, 20)  # absolute exponentials of such times would overflow
    narrow, wide = neurons(times), neurons.double()(times.double())
    assert narrow.isfinite().any()
    torch.testing.assert_close(narrow.double(), wide, atol=1e-3, rtol=0)


def test_potential_is_the_threshold_right_before_a_spike_and_zero_right_after():
    torch.manual_seed(3)
    neurons = SpikingLinear(6, 3, spikes=5, drive=8.0).double()
    times = torch.rand(1, 6, dtype=torch.float64)
    own = neurons(times)[0].detach()
    for neuron, row in enumerate(own):
        for moment in row[row.isfinite()]:
            before, after = neurons.potential(times, torch.stack([moment - 1e-9, moment + 1e-9]))[0, neuron]
            assert before == pytest.approx(1.0, abs=1e-6)
            assert after == pytest.approx(0.0, abs=1e-6)


def test_least_slope_caps_exploding_gradients_and_no_others():
    membrane = Membrane(2.0, 1.0)
    grazing = 1.0 / membrane.peak() * (1 + 1e-7)
    exact, capped = (layer([[grazing]], least_slope=slope) for slope in (0.0, 0.5))
    steep = layer([[5.0]], least_slope=0.5)
    for neurons in (exact, capped, steep):
        neurons(torch.zeros(1, 1)).sum().backward()
    assert exact.weight.grad.abs() > 100
    assert capped.weight.grad.abs() == pytest.approx(membrane.peak() / 0.5, rel=1e-2)
    plain = layer([[5.0]])
    plain(torch.zeros(1, 1)).sum().backward()
    assert torch.equal(plain.weight.grad, steep.weight.grad)


def test_lift_raises_the_weights_of_a_silent_neuron_that_should_be_earlier():
    times = torch.tensor([[0.0, INF, 0.5], [INF, INF, 0.0]])
    neurons = layer([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]], lift=0.5)
    found = neurons(times)
    assert found.isinf().all()
    found.backward(torch.tensor([[[2.0], [-2.0]], [[1.0], [0.0]]]))
    assert neurons.weight.grad.tolist() == [[-1.0, 0.0, -1.5], [0.0, 0.0, 0.0]]


def test_bump_raises_the_weights_of_neurons_that_are_mostly_silent():
    times = torch.tensor([[0.0, INF], [0.0, 0.0]])
    neurons = layer([[0.1, 0.1], [9.0, 0.1], [1.5, 1.5]], bump=0.5, silence=0.9)
    found = neurons(times)
    assert found.isfinite()[..., 0].T.tolist() == [[False, False], [True, True], [False, True]]
    found.backward(torch.zeros_like(found))
    assert neurons.weight.grad.tolist() == [[-0.5, -0.25], [0.0, 0.0], [0.0, 0.0]]


def test_first_weights_reach_the_threshold_as_told():
    torch.manual_seed(0)
    made = SpikingLinear(400, 300, drive=3.0, spread=0.5, tau_m=INF, tau_s=0.5, threshold=2.0)
    unit = 2.0 / 0.5
    assert made.weight.mean().item() == pytest.approx(3.0 / 400 * unit, rel=0.02)
    assert made.weight.std().item() == pytest.approx(0.5 / 20 * unit, rel=0.02)


def test_latency_encoder():
    x = torch.tensor([[0.0, 0.2, 1.0, 3.0]])
    assert LatencyEncoder(3.0, start=1.0, bias=0.5)(x)[0, :, 0].tolist() == pytest.approx([INF, 2.6, 1.0, 1.0, 0.5])
    assert LatencyEncoder(3.0, silent=-1.0)(x)[0, :, 0].tolist() == pytest.approx([3.0, 2.4, 0.0, 0.0])
    assert LatencyEncoder(2.0, silent=0.04, curve="logarithmic")(x)[0, 1:3, 0].tolist() == pytest.approx([1.0, 0.0])
    own = LatencyEncoder(2.0, low=[0.0, 0.1, 0.0, 1.0], high=[1.0, 0.3, 2.0, 5.0])
    assert own(x)[0, :, 0].tolist() == pytest.approx([INF, 1.0, 1.0, 1.0])
    assert LatencyEncoder(2.0)(torch.tensor([[math.nan]])).isnan().all()
    noisy = LatencyEncoder(2.0, jitter=0.1)
    assert not torch.equal(noisy(x), noisy(x))
    assert torch.equal(noisy.eval()(x), noisy(x))


def test_input_spikes_are_left_out_in_training_alone():
    torch.manual_seed(0)
    encoder, x = LatencyEncoder(2.0, bias=0.5, dropout=0.25), torch.rand(100, 50)
    whole, some = encoder.eval()(x), encoder.train()(x)
    kept = some.isfinite()
    assert torch.equal(some[kept], whole[kept])
    assert kept[:, :-1].double().mean().item() == pytest.approx(0.75, abs=0.02)
    assert kept[:, -1].all()  # the bias always spikes
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(UserError, match="dropout must be a probability below 1"):
            LatencyEncoder(2.0, dropout=wrong)


def test_poisson_encoder_has_the_rate_it_is_told():
    torch.manual_seed(0)
    times = PoissonEncoder(10.0, rate=2.0, spikes=60)(torch.full((2000, 1), 0.5))
    counts = times.isfinite().sum(2).double()
    assert counts.mean().item() == pytest.approx(10.0, abs=0.3)
    assert counts.var().item() == pytest.approx(10.0, abs=1.2)
    assert times[times.isfinite()].max() <= 10.0
    assert PoissonEncoder(10.0)(torch.zeros(3, 2)).isinf().all()


def test_population_encoder_spikes_first_where_the_number_is():
    times = PopulationEncoder(5, 2.0)(torch.tensor([[0.25], [0.9]]))[..., 0]
    assert times.argmin(1).tolist() == [1, 4]
    assert times[0, 0] == times[0, 2]
    assert times[0, 4].isinf()


def test_first_spike_scores_and_their_derivative():
    times = torch.tensor([[[1.0, 2.0], [7.0, INF], [INF, INF]]], requires_grad=True)
    scores = FirstSpike(0.5, latest=4.0)(times)
    assert scores.tolist() == [[-2.0, -8.0, -8.0]]
    scores.backward(torch.tensor([[1.0, 2.0, 3.0]]))
    assert times.grad.tolist() == [[[-2.0, 0.0], [-4.0, 0.0], [-6.0, 0.0]]]


def test_count_scores_and_their_derivative():
    times = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [INF, INF]]], requires_grad=True)
    scores = SpikeCount(2.0)(times)
    assert scores.floor().tolist() == [[2.0, 2.0, 0.0]]
    assert scores[0, 0] > scores[0, 1]
    scores.backward(torch.tensor([[1.0, 2.0, 3.0]]))
    assert times.grad.tolist() == [[[-0.5, -0.5], [-1.0, -1.0], [-1.5, 0.0]]]


def test_losses():
    scores, y = torch.tensor([[-1.0, -3.0], [-2.0, -2.0]]), torch.tensor([0, 1])
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert FirstSpikeLoss()(scores, y).item() == pytest.approx(expected)
    assert FirstSpikeLoss(0.1)(scores, y).item() == pytest.approx(expected + 0.1 * 1.5)
    counts = torch.tensor([[4.25, 1.5]], requires_grad=True)
    loss = SpikeCountLoss(6, 0)(counts, torch.tensor([0]))
    assert loss.item() == pytest.approx(2.5)
    loss.backward()
    assert counts.grad.tolist() == [[-2.0, 1.0]]


def test_works_in_a_sequential_with_any_optimizer():
    torch.manual_seed(0)
    network = nn.Sequential(
        LatencyEncoder(2.0, bias=0.0), SpikingLinear(5, 20, spikes=3), SpikingLinear(20, 2, lift=0.5), FirstSpike()
    )
    x = torch.rand(64, 4)
    y = (x[:, 0] > x[:, 1]).long()
    optimizer, loss = torch.optim.RMSprop(network.parameters(), lr=3e-3), FirstSpikeLoss()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(loss(network(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SpikingLinear(3, 2, tau_m=0.0), "tau_m"),
        (lambda: SpikingLinear(3, 2, tau_s=INF), "tau_s"),
        (lambda: SpikingLinear(3, 2, threshold=-1.0), "threshold"),
        (lambda: SpikingLinear(3, 2, spikes=0), "spikes"),
        (lambda: SpikingLinear(3, 2, bump=-1.0), "bump"),
        (lambda: SpikingLinear(3, 2)(torch.rand(4, 5)), "3 inputs"),
        (lambda: SpikingLinear(3, 2)(torch.ones(4, 3, dtype=torch.int64)), "int64"),
        (lambda: LatencyEncoder(1.0, start=2.0), "latest"),
        (lambda: LatencyEncoder(1.0, low=1.0), "low"),
        (lambda: LatencyEncoder(1.0, curve="logarithmic"), "curve"),
        (lambda: PoissonEncoder(0.0), "window"),
        (lambda: PopulationEncoder(1, 1.0), "neurons"),
        (lambda: FirstSpike(0.0), "tau"),
        (lambda: SpikeCountLoss(-1), "true"),
        (lambda: SpikingLinear(3, 2).bfloat16()(torch.rand(4, 3)), "float32 or float64"),
    ],
)
def test_refusals(make, told, one_line):
    with one_line(UserError, told):
        make()


def test_samples_of_different_lengths_keep_their_places(path):
    del path
    neurons = SpikingLinear(6, 3, spikes=3, drive=6.0)
    times = torch.rand(4, 6, 2)
    for sample, spikes in enumerate((2, 9, 0, 5)):
        times[sample].view(-1)[spikes:] = math.inf
    alone = torch.cat([neurons(one[None]) for one in times])
    torch.testing.assert_close(neurons(times), alone)
    assert torch.isfinite(alone[1]).any()


@pytest.mark.parametrize("wrong", [torch.rand(3), torch.ones(2, 3).bool()])
def test_what_an_encoder_cannot_read(wrong, one_line):
    with one_line(UserError, "shape (batch, ...)"):
        LatencyEncoder(2.0)(wrong)
    assert LatencyEncoder(2.0)(torch.tensor([[math.inf, 0.5]])).isnan().flatten().tolist() == [True, False]
    with one_line(UserError, "silence"):
        SpikingLinear(3, 2, silence=1.5)


def test_nan_in_the_input_is_not_taken_for_silence():
    neurons = SpikingLinear(3, 2, spikes=2)
    found = neurons(torch.tensor([[0.1, math.nan, 0.2], [0.1, 0.2, 0.3]]))
    assert found[0].isnan().all()
    assert not found[1].isnan().any()
    for lost in (math.nan, math.inf, -math.inf):
        neurons.weight.data[0, 0] = lost
        assert neurons(torch.rand(2, 3)).isnan().all()

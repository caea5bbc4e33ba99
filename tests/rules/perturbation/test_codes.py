"""Perturbation codes: equal power, no two alike, and what is held, drawn and gone on with."""

import math

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.rules.perturbation.codes import KINDS, PerturbationCode


def make(kind, size=5, **options):
    torch.manual_seed(0)
    return PerturbationCode(kind, size, **options)


@pytest.mark.parametrize(("kind", "period"), [("sequential", 5), ("walsh", 8)])
def test_orthogonal_codes_are_exact_over_a_period(kind, period):
    """Σ_t θ̃ θ̃ᵀ = period · norm²/P · identity, whatever the order drawn."""
    rows = make(kind, norm=0.3)(3 * period)
    for part in rows.split(period):
        torch.testing.assert_close(part.T @ part, period * 0.09 / 5 * torch.eye(5))


@pytest.mark.parametrize("kind", KINDS)
def test_all_codes_have_one_power_and_no_correlations_on_average(kind):
    rows = make(kind, norm=0.3)(40_000)
    found = rows.T @ rows / len(rows)
    # Five standard deviations of a mean of 40,000 products of size norm²/P; the orthogonal codes have next to none.
    torch.testing.assert_close(found, 0.09 / 5 * torch.eye(5), rtol=0, atol=5 * 0.09 / 5 / math.sqrt(40_000))


@pytest.mark.parametrize("kind", ["random", "sequential", "walsh"])
def test_length_of_every_perturbation_is_the_norm(kind):
    torch.testing.assert_close(make(kind, norm=0.3)(50).norm(dim=1), torch.full((50,), 0.3))


def test_walsh_codes_turn_round_after_each_pass():
    rows = make("walsh")(32)
    torch.testing.assert_close(rows[:8], -rows[8:16])
    torch.testing.assert_close(rows[:8], rows[16:24])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 300, 70_000])
def test_walsh_codes_are_signs_of_the_parity_of_common_bits(size):
    """Entry (t, i) of a Hadamard matrix is odd where t and i share an odd number of bits, and turned at odd passes."""
    code = make("walsh", size, norm=size**0.5)
    code.time += code.period - 3 if size > 4 else 0
    start = int(code.time)
    rows, names = code(7), code.places[:: max(1, size // 50)].tolist()
    for row, t in zip(rows, range(start, start + 7), strict=True):
        turned, place = divmod(t, code.period)
        expected = [(-1.0) ** ((place & name).bit_count() + turned) for name in names]
        assert row[:: max(1, size // 50)].tolist() == pytest.approx(expected)


def test_sinusoids_begin_with_phases_of_their_own():
    """At once they have the length that they keep; without phases all would begin at zero."""
    rows = make("sinusoidal", 20_000, norm=0.3)(5)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((5,), 0.3), rtol=0.05, atol=0)


def test_sequential_moves_every_parameter_once_a_pass():
    rows = make("sequential")(10)
    assert sorted(rows[:5].argmax(dim=1).tolist()) == [0, 1, 2, 3, 4]
    assert (rows != 0).sum() == 10


@pytest.mark.parametrize("kind", ["random", "sequential", "walsh"])
@pytest.mark.parametrize("parts", [[24], [1] * 24, [5, 7, 12], [4, 2, 18]])
def test_slots_are_held_however_the_steps_are_cut(kind, parts):
    """tau_p equal rows in a slot, across calls too."""
    code = make(kind, tau_p=3)
    torch.manual_seed(1)
    rows = torch.cat([code(count) for count in parts])
    assert all((slot == slot[0]).all() for slot in rows.split(3))
    changes = (rows[3::3] != rows[2:-1:3]).any(dim=1).sum()
    assert changes >= (7 if kind != "random" else 5)


def test_a_saved_code_goes_on_where_it_stopped():
    for kind in KINDS:
        code, twin = make(kind, tau_p=2), PerturbationCode(kind, 5, tau_p=2)
        code(7)
        twin.load_state_dict(code.state_dict())
        torch.manual_seed(3)
        expected = code(6)
        torch.manual_seed(3)
        assert torch.equal(twin(6), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gold"}, "code must be"),
        ({"norm": 0.0}, "norm"),
        ({"tau_p": 0}, "tau_p"),
        ({"frequencies": (0.3, 0.2)}, "frequencies"),
        ({"frequencies": (0.3, 0.5)}, "frequencies"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        PerturbationCode(**{"kind": "random", "size": 5, **options})


def test_sinusoids_are_uncorrelated_after_many_steps_too():
    """float32 holds no phase of 2e7 steps, as many as the paper's longest run has."""
    torch.manual_seed(0)
    code = PerturbationCode("sinusoidal", 40)
    code.time += 20_000_000
    rows = code(20_000).double()
    correlation = rows.T @ rows / len(rows) * 40 / code.norm**2
    torch.testing.assert_close(correlation, torch.eye(40).double(), atol=0.05, rtol=0)


def test_sinusoids_are_held_for_tau_p_steps():
    torch.manual_seed(0)
    rows = PerturbationCode("sinusoidal", 5, tau_p=3)(9)
    assert torch.equal(rows[::3], rows[1::3])
    assert not torch.equal(rows[0], rows[3])

"""The measures of similarity against brute force, scikit-learn, and what theory says they leave unchanged."""

import itertools
import math

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from beyondprop.errors import UserError
from beyondprop.measure.similarity import churn, error_overlap, kappa, linear_cka, matched_correlation, mean_kl


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_churn_and_error_overlap_by_hand():
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    a = torch.tensor([0, 1, 2, 1, 2, 0])  # wrong on 3, 4, 5
    b = torch.tensor([0, 1, 0, 1, 0, 2])  # wrong on 2, 3, 4
    assert churn(a, b) == pytest.approx(3 / 6)  # 2, 4 and 5
    assert error_overlap(a, b, y) == pytest.approx(2 / 4)
    assert churn(a, a) == 0
    assert error_overlap(a, a, y) == 1
    assert error_overlap(y, y, y) == 1
    assert error_overlap(a, y, y) == 0


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_that_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(5, (60,), generator=generator)
    b = torch.where(torch.rand(60, generator=generator) < 0.2 * seed, a, torch.randint(4, (60,), generator=generator))
    assert kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))


def test_kappa_at_its_ends():
    a = torch.tensor([0, 1, 2, 1])
    assert kappa(a, a) == 1
    assert kappa(torch.zeros(4).long(), torch.zeros(4).long()) == 1
    assert kappa(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])) == -1


def test_kl_by_brute_force(generator):
    p, q = draw(generator, 6, 4), draw(generator, 6, 4)
    total = 0.0
    for row_p, row_q in zip(p.exp().tolist(), q.exp().tolist(), strict=True):
        total += sum(
            u / sum(row_p) * math.log((u / sum(row_p)) / (v / sum(row_q))) for u, v in zip(row_p, row_q, strict=True)
        )
    assert mean_kl(p, q) == pytest.approx(total / 6)
    assert mean_kl(p, p + 3.0) == pytest.approx(0, abs=1e-12)  # a shift of the scores changes no probability
    assert mean_kl(p, q) != pytest.approx(mean_kl(q, p))


def naive_cka(x, y):
    """Eq. (3) of arXiv 1905.00414: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the centring matrix written out."""
    n = len(x)
    H = torch.eye(n, dtype=x.dtype) - 1 / n
    hsic = lambda K, L: torch.trace(K @ H @ L @ H) / (n - 1) ** 2  # noqa: E731
    K, L = x @ x.t(), y @ y.t()
    return (hsic(K, L) / (hsic(K, K) * hsic(L, L)).sqrt()).item()


@pytest.mark.parametrize(("d", "e"), [(4, 6), (30, 7), (7, 30), (30, 40)], ids=["fewer", "x more", "y more", "more"])
def test_cka_is_the_normalised_hsic_on_either_side(d, e, generator):
    x, y = 2 + draw(generator, 20, d), draw(generator, 20, e) - 1
    assert linear_cka(x, y) == pytest.approx(naive_cka(x, y), rel=1e-10)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-10)


def test_cka_leaves_rotation_scale_and_shift_out(generator):
    x, y = draw(generator, 25, 6), draw(generator, 25, 5)
    rotation = torch.linalg.qr(draw(generator, 6, 6)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, -3 * x @ rotation + draw(generator, 6)) == pytest.approx(1)
    assert linear_cka(0.01 * x @ rotation + 5, y) == pytest.approx(linear_cka(x, y))
    assert linear_cka(x @ torch.diag(torch.arange(1.0, 7).double()), x) < 0.99  # a scale of each neuron's own counts


def test_cka_of_layers_without_anything_in_common_is_zero():
    x = torch.tensor([[1.0, 1, -1, -1]]).t()
    assert linear_cka(x, torch.tensor([[1.0, -1, 1, -1]]).t()) == 0
    assert linear_cka(x, torch.full((4, 2), 0.1)) == 0


def test_matching_finds_a_permutation_with_signs_and_scales(generator):
    x = draw(generator, 30, 9)
    order = torch.randperm(9, generator=generator)
    y = torch.empty_like(x)
    y[:, order] = x * torch.tensor([1.0, -1, 2, -3, 1, 0.1, -1, 5, 1]) + 7  # x_i is found at order[i]
    found = matched_correlation(x, y)
    assert found.mean == pytest.approx(1)
    assert torch.equal(found.partners, order)


@pytest.mark.parametrize(("d", "e"), [(4, 4), (3, 5), (5, 3)])
def test_matching_is_the_best_of_all(d, e, generator):
    x, y = draw(generator, 12, d), draw(generator, 12, e)
    table = torch.corrcoef(torch.cat([x, y], dim=1).t()).abs()[:d, d:]
    if d <= e:
        best = max(sum(table[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(e), d))
    else:
        best = max(sum(table[i, j] for j, i in enumerate(p)) for p in itertools.permutations(range(d), e))
    found = matched_correlation(x, y)
    assert found.mean == pytest.approx(best.item() / min(d, e))
    assert found.correlations.sum().item() == pytest.approx(best.item())
    paired = found.partners >= 0
    assert paired.sum() == min(d, e)
    assert torch.allclose(table[paired.nonzero()[:, 0], found.partners[paired]], found.correlations[paired])


def test_a_constant_neuron_correlates_with_none(generator):
    x = draw(generator, 10, 2)
    x[:, 1] = 0.1
    assert matched_correlation(x, x).correlations.tolist() == pytest.approx([1.0, 0.0])


def test_activations_are_measured_in_double_precision(generator):
    x = draw(generator, 50, 4).float() * 1e-3 + 100
    assert linear_cka(x, x.double()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("measure", [churn, kappa, mean_kl, linear_cka, matched_correlation])
def test_other_samples_are_refused(measure):
    with pytest.raises(UserError, match="same samples, got 3 and 2"):
        measure(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(UserError, match="same samples, got 0 and 0"):
        measure(torch.ones(0, 2), torch.ones(0, 2))


def test_activations_need_two_dimensions():
    with pytest.raises(UserError, match=r"\(samples, neurons\)"):
        linear_cka(torch.ones(3, 2, 2), torch.ones(3, 2))

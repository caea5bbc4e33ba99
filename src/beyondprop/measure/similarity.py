"""How like each other two trained networks are: in what they predict, and in their hidden neurons.

All functions compare two networks on the same samples and know nothing of how the networks were trained.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from beyondprop.errors import UserError


def churn(a: Tensor, b: Tensor) -> float:
    """Share of samples whose predicted class differs (Milani Fard et al., "Launch and iterate", 2016).

        churn = (1/N) Σ_n [a_n ≠ b_n],        agreement = 1 - churn

    Args:
        a: Predicted classes, shape (N,).
        b: Those of the other network, on the same samples.

    Returns:
        From 0 to 1; between the difference of the two networks' error rates and their sum.

    >>> churn(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]))
    0.25
    """
    _require_pairs(a, b)
    return (a != b).double().mean().item()


def error_overlap(a: Tensor, b: Tensor, y: Tensor) -> float:
    """Share of the samples on which either network errs that both get wrong: Jaccard's index of the sets of errors.

        overlap = |E_a ∩ E_b| / |E_a ∪ E_b|

    Args:
        a: Predicted classes, shape (N,).
        b: Those of the other network.
        y: True classes.

    Returns:
        From 0 (no error in common) to 1 (wrong on the same samples; also where neither is ever wrong).

    >>> error_overlap(torch.tensor([1, 1, 0, 0]), torch.tensor([2, 0, 1, 0]), torch.tensor([0, 0, 0, 0]))
    0.3333333333333333
    """
    _require_pairs(a, b)
    _require_pairs(a, y)
    wrong_a, wrong_b = a != y, b != y
    either = (wrong_a | wrong_b).sum().item()
    return (wrong_a & wrong_b).sum().item() / either if either else 1.0


def kappa(a: Tensor, b: Tensor) -> float:
    """Cohen's kappa (1960, doi 10.1177/001316446002000104): agreement beyond that of chance.

        kappa = (p_o - p_e) / (1 - p_e),    p_o = agreement,    p_e = Σ_c share_a(c) share_b(c)

    Args:
        a: Predicted classes, shape (N,).
        b: Those of the other network.

    Returns:
        1 for the same predictions, 0 for as many common ones as two networks have that predict at random with the same
        shares of classes; it can be negative. 1 too where both give one and the same class throughout.
    """
    _require_pairs(a, b)
    classes = int(torch.maximum(a.max(), b.max())) + 1
    shares_a, shares_b = (torch.bincount(each, minlength=classes).double() / len(each) for each in (a, b))
    by_chance = (shares_a @ shares_b).item()
    observed = (a == b).double().mean().item()
    return 1.0 if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def mean_kl(p: Tensor, q: Tensor) -> float:
    """Mean divergence of Kullback and Leibler between two networks' predicted probabilities.

        KL(p || q) = (1/N) Σ_n Σ_c p_nc (log p_nc - log q_nc)

    Args:
        p: Scores of shape (N, classes), of which softmax gives the probabilities.
        q: Those of the other network. p and q do not take each other's place: q is what p is told by.

    Returns:
        In nats, 0 for the same probabilities; it grows with the confidence with which they differ.
    """
    _require_pairs(p, q)
    log_p, log_q = (each.double().log_softmax(dim=1) for each in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean().item()


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, Section 3).

        CKA = |Yᵀ X|²_F / ( |Xᵀ X|_F |Yᵀ Y|_F ),        columns centred

    which does not change when the neurons of one layer are rotated, reordered or scaled all alike, or shifted. For more
    neurons than samples the same is computed from the samples' Gram matrices: `|Yᵀ X|²_F = <X Xᵀ, Y Yᵀ>`.

    Args:
        x: Activations of shape (N, neurons).
        y: Those of the other network on the same samples, any number of neurons.

    Returns:
        From 0 to 1, which stands for equal up to such a change. 0 where a layer is constant. With few samples for many
        neurons it is high also between unrelated layers: compare it with that of untrained networks.
    """
    x, y = _centred(x, y)
    if max(x.shape[1], y.shape[1]) <= len(x):
        cross, own_x, own_y = y.t() @ x, x.t() @ x, y.t() @ y
        product = cross.square().sum()
    else:
        own_x, own_y = x @ x.t(), y @ y.t()
        product = (own_x * own_y).sum()
    scale = (own_x.norm() * own_y.norm()).item()
    return min(1.0, product.item() / scale) if scale > 0 else 0.0


class Matching(NamedTuple):
    """Pairs of neurons of two layers.

    Attributes:
        mean: Of the absolute correlations of all pairs.
        partners: For each neuron of the first layer that has a partner, the partner's number; -1 for the others.
        correlations: Absolute correlation with the partner; 0 for those without one.
    """

    mean: float
    partners: Tensor
    correlations: Tensor


def matched_correlation(x: Tensor, y: Tensor) -> Matching:
    """Pair the neurons of two layers one to one so that their correlations are greatest (Li et al., arXiv 1511.07543).

        max over pairings π of  Σ_i |corr(x_i, y_π(i))|,    by the Hungarian method

    The sign is left out, for a tanh neuron and its negative serve the next layer alike.

    Args:
        x: Activations of shape (N, neurons).
        y: Those of the other network on the same samples. Where the numbers of neurons differ, as many pairs are made
            as the smaller layer has neurons.

    Returns:
        The pairs; a mean of 1 says that the layers are the same up to order, sign, scale and shift of each neuron. A
        constant neuron correlates with none. Of n unrelated neurons and N samples the best pairs reach about
        sqrt(2 ln n / N) by chance.
    """
    x, y = (each / each.norm(dim=0).clamp_min(torch.finfo(each.dtype).tiny) for each in _centred(x, y))
    correlations = (x.t() @ y).abs().clamp_max(1.0)
    rows, columns = (
        torch.from_numpy(each) for each in linear_sum_assignment(correlations.cpu().numpy(), maximize=True)
    )
    found = correlations.cpu()[rows, columns]
    partners = torch.full((x.shape[1],), -1).index_put((rows,), columns)
    by_neuron = torch.zeros(x.shape[1], dtype=found.dtype).index_put((rows,), found)
    return Matching(found.mean().item(), partners, by_neuron)


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in double precision, each column with its mean subtracted; one that is constant becomes zero."""
    _require_pairs(x, y)
    if x.ndim != 2 or y.ndim != 2:
        raise UserError(f"activations must have shape (samples, neurons), got {tuple(x.shape)} and {tuple(y.shape)}")

    def centred(each: Tensor) -> Tensor:
        each = each.double()
        constant = each.amin(dim=0) == each.amax(dim=0)
        return torch.where(constant, 0.0, each - each.mean(dim=0))

    return centred(x), centred(y)


def _require_pairs(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b) or len(a) == 0:
        raise UserError(f"two networks are compared on the same samples, got {len(a)} and {len(b)}")

"""What docs/noprop-theory.md proves, tried with blocks that know the very distribution of the labels."""

import math

import pytest
import torch
from torch import Tensor, nn

from beyondprop.rules.local.noprop import ClassEmbedding, NoPropCT, NoPropDT, NoPropFM
from beyondprop.rules.local.noprop.schedule import cosine_schedule

CLASSES = 5


class Exact(nn.Module):
    """Says log p(y|x, z_t), where z_t given y is N(signal(t) u_y, noise(t) I) with one-hot rows; x is p(y|x) itself."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, z: Tensor, p: Tensor, t: Tensor | None = None) -> Tensor:
        signal, noise = self.levels(t if t is None else t.unsqueeze(1))
        return p.log() + signal / noise * z


class ExactVelocity(Exact):
    """Of the straight line: the expected u_y less z, over the time that is left."""

    def forward(self, z: Tensor, p: Tensor, t: Tensor | None = None) -> Tensor:
        return (super().forward(z, p, t).softmax(dim=1) - z) / (1 - t).unsqueeze(1)


def exact_rule(kind):
    rows = ClassEmbedding(torch.eye(CLASSES, dtype=torch.float64), learned=False)
    if kind == "noprop-dt":
        schedule = cosine_schedule(10)

        def of_block(level):
            return Exact(lambda _: (math.sqrt(level), 1 - level))

        return NoPropDT([of_block(level) for level in schedule.alpha_bar[:-1]], rows, schedule=schedule).double()
    if kind == "noprop-fm":
        return NoPropFM(nn.Identity(), ExactVelocity(lambda t: (t, (1 - t) ** 2)), rows, sigma=0.0).double()

    def levels(t):
        gamma = rule.schedule(t)
        return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma)

    rule = NoPropCT(nn.Identity(), Exact(levels), rows).double()
    return rule


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("noprop-dt", {}),
        *(
            (kind, {"steps": steps} | more)
            for kind, more in (
                *(("noprop-ct", {"method": way}) for way in ("exponential", "multistep", "heun", "euler")),
                ("noprop-fm", {}),
            )
            for steps in (1, 2, 5, 50)
        ),
    ],
)
def test_from_the_mean_every_number_of_steps_names_the_likeliest_class(kind, how):
    p = torch.rand(200, CLASSES, dtype=torch.float64).pow(0.2)  # close together: nothing is sure
    p = p / p.sum(dim=1, keepdim=True)
    with torch.no_grad():
        assert torch.equal(exact_rule(kind)(p, **how).argmax(dim=1), p.argmax(dim=1))


@pytest.mark.parametrize("kind", ["noprop-dt", "noprop-ct", "noprop-fm"])
def test_from_noise_a_class_is_drawn_by_its_probability(kind):
    p, draws = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64), 4000
    how = {"noise": True} if kind == "noprop-dt" else {"steps": 200}
    if kind == "noprop-ct":
        how["method"] = "euler"
    torch.manual_seed(0)
    with torch.no_grad():
        found = exact_rule(kind)(p.expand(draws, CLASSES), start="noise", **how).argmax(dim=1)
    shares = torch.bincount(found, minlength=CLASSES) / draws
    # Four standard errors, and what ten blocks or a clipped schedule leave of the noise.
    assert (shares - p).abs().max() < 4 * math.sqrt(0.25 / draws) + 0.01


@pytest.mark.parametrize("kind", ["noprop-dt", "noprop-ct", "noprop-fm"])
def test_what_two_blocks_must_put_together_never_enters_the_chain(kind):
    """A block that cannot tell says all classes alike, so that z stays the same for all of them."""
    p = torch.full((3, CLASSES), 1 / CLASSES, dtype=torch.float64)
    with torch.no_grad():
        scores = exact_rule(kind)(p)
    torch.testing.assert_close(scores.exp(), p)

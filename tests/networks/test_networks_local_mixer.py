"""LocalMixer: the paper's sizes, and its layers written out."""

import pytest
import torch
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.networks.local_mixer import LocalMixer


@pytest.mark.parametrize(
    ("name", "image", "count"),
    [
        ("S/1/1", (1, 28, 28), 271_892),
        ("M/1/16", (1, 28, 28), 429_076),
        ("M/8/16", (3, 32, 32), 918_770),
        ("L/8/64", (3, 32, 32), 13_074_674),
    ],
)
def test_sizes_are_the_papers(name, image, count):
    with torch.device("meta"):
        network = LocalMixer.named(name, image, 10)
    assert sum(p.numel() for p in network.parameters()) == count


def norm(x, dims=-1):
    mean = x.mean(dim=dims, keepdim=True)
    return (x - mean) / (x.var(dim=dims, keepdim=True, unbiased=False) + 1e-5).sqrt()


def test_forward_is_the_papers_written_out():
    torch.manual_seed(0)
    network = LocalMixer((3, 6, 4), 5, blocks=2, side=2, channels=8, groups=2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 3, 6, 4).double()
    patches = [x[:, :, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2].flatten(1) for i in range(2) for j in range(2)]
    h = torch.stack(patches, dim=1)

    def channels(h, first, second):
        h = F.relu(norm(norm(h) @ first.weight.T + first.bias))
        parts = [
            norm(norm(h[..., 4 * g : 4 * g + 4]) @ second.weight[4 * g : 4 * g + 4].T + second.bias[4 * g : 4 * g + 4])
            for g in range(2)
        ]
        return torch.cat(parts, dim=-1)

    first, second = ([layer.linear for layer in block.layers] for block in network.blocks)
    h = F.relu(channels(h, *first))
    mixed = torch.einsum("pq,nqc->npc", second[0].weight, norm(h)) + second[0].bias[:, None]
    h = F.relu(channels(F.relu(norm(mixed, dims=1)), *second[1:]) + h)
    expected = h.mean(dim=1) @ network.readout.weight.T + network.readout.bias
    torch.testing.assert_close(network(x), expected)


def test_it_begins_with_weights_of_one_scale_and_scores_of_zero():
    torch.manual_seed(0)
    network = LocalMixer((1, 8, 8), 10, blocks=2, side=2, channels=64, groups=4, scale=0.2)
    assert not network(torch.randn(4, 1, 8, 8)).any()
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any()
        elif not name.startswith("readout"):
            assert parameter.std().item() == pytest.approx(0.2, rel=0.2)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="3 x 3 patches"):
        LocalMixer((1, 8, 8), 10, blocks=1, side=3, channels=8, groups=2)
    with pytest.raises(UserError, match="3 groups do not divide 8 channels"):
        LocalMixer((1, 8, 8), 10, blocks=1, side=2, channels=8, groups=3)
    with pytest.raises(UserError, match="blocks must be a whole number of at least 1, got 0"):
        LocalMixer((1, 8, 8), 10, blocks=0, side=2, channels=8, groups=2)
    with pytest.raises(UserError, match="take one of S/1/1"):
        LocalMixer.named("XL", (1, 8, 8), 10)

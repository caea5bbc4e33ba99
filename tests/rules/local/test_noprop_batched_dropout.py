"""Dropout in batched blocks: a mask for every block, drawn from the step's seed, and saved with it."""

import copy

import pytest
import torch
from batched_parts import block_gradients, images, paper_rule
from torch import nn

from beyondprop.layers.dropout import Dropout
from beyondprop.rules.local.noprop import NoPropDT
from beyondprop.rules.local.noprop.batched import run_together


@pytest.mark.parametrize("kind", [nn.Dropout, Dropout], ids=["torch's", "ours"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_every_block_has_a_dropout_mask_of_its_own(kind, memory_format):
    """Blocks with equal weights: their masks differ, in each a quarter is dropped, and what is kept is scaled."""

    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(1, 4, 1)
            self.dropout = kind(0.25)

        def forward(self, z, x):
            return self.dropout(self.convolution(x)) * z[:, :1, None, None]

    block = Drops()
    nn.init.ones_(block.convolution.weight)
    nn.init.zeros_(block.convolution.bias)
    blocks = [block, copy.deepcopy(block)]
    x = torch.ones(32, 1, 16, 16).to(memory_format=memory_format)
    out = run_together(blocks, torch.ones(2, 32, 1), x).detach()
    kept = out != 0
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 4 / 3))
    for one in kept:
        assert one.double().mean().item() == pytest.approx(0.75, abs=5 * (0.1875 / one.numel()) ** 0.5)
    assert (kept[0] ^ kept[1]).double().mean().item() == pytest.approx(0.375, abs=0.02)


def test_our_dropout_follows_vmap_over_any_dimension():
    x = torch.ones(3, 2, 5000)
    y = torch.vmap(Dropout(0.5), in_dims=1, out_dims=1, randomness="different")(x)
    assert y.shape == x.shape
    assert (y != 0).double().mean(dim=(0, 2)).sub(0.5).abs().max() < 0.03


@pytest.fixture
def one_noise(monkeypatch):
    """Without noise in the labels: what a step draws beside them is dropout's."""
    monkeypatch.setattr(NoPropDT, "noisy_label", lambda self, t, y: self.embedding(y))


@pytest.mark.usefixtures("one_noise")
def test_dropout_draws_anew_at_every_step_and_from_the_steps_seed():
    rule = paper_rule(dropout=0.5, execution="batched")
    x, y = images()
    found = []
    for seed in (1, 1, 2):
        rule.zero_grad()
        torch.manual_seed(seed)
        rule.backward(x, y)
        found.append(torch.cat(block_gradients(rule)))
        after = torch.rand(1)
        torch.manual_seed(seed)
        torch.randint(2**32, ())
        assert torch.equal(torch.rand(1), after)  # the step takes one number from the generator, as the loop does
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=0.1)


@pytest.mark.usefixtures("one_noise")
def test_shares_of_different_blocks_draw_different_masks():
    """Equal blocks, trained apart from the same step's seed: their gradients differ in more than the SNR weight."""
    rule = paper_rule(dropout=0.5, execution="batched")
    for block in rule.network:
        block.load_state_dict(rule.network[0].state_dict())
    x, y = images()
    found = []
    for number in (1, 3):
        rule.train_only([number], head=False)
        torch.manual_seed(1)
        rule.backward(x, y)
        gradient = torch.cat([p.grad.flatten() for p in rule.network[number - 1].parameters()])
        found.append(gradient / gradient.norm())
    assert (found[0] - found[1]).norm() > 0.1


def test_state_dict_has_the_loops_keys_and_goes_on_to_the_bit():
    rule = paper_rule(dropout=0.2, execution="batched")
    assert list(rule.state_dict()) == list(paper_rule().state_dict())
    optimizer = torch.optim.Adam(rule.parameters(), lr=1e-2)
    x, y = images()

    def train(rule, optimizer):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            rule.backward(x, y)
            optimizer.step()

    train(rule, optimizer)
    saved = copy.deepcopy((rule.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    twin = paper_rule(dropout=0.2, execution="batched")
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    twin.load_state_dict(saved[0])
    twin_optimizer.load_state_dict(saved[1])
    for r, o in ((rule, optimizer), (twin, twin_optimizer)):
        torch.set_rng_state(saved[2])
        train(r, o)
    for key, value in rule.state_dict().items():
        assert torch.equal(twin.state_dict()[key], value), key

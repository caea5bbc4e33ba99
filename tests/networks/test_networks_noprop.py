"""The paper's networks: sizes, equality of our fast order with the paper's, the baseline's recursion."""

import pytest
import torch
from torch import nn

from beyondprop.networks.noprop import FlattenChannelsLast, ResidualChain, denoising_blocks, image_encoder
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock


def million_parameters(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("shape", "classes", "blocks"),
    [((1, 28, 28), 10, 20.0), ((3, 32, 32), 10, 24.9), ((3, 32, 32), 100, 25.3)],
    ids=["mnist", "cifar-10", "cifar-100"],
)
def test_ten_blocks_have_the_papers_size(shape, classes, blocks):
    made = denoising_blocks(10, shape, ClassEmbedding.one_hot(classes))
    assert million_parameters(made) == pytest.approx(blocks, abs=0.06)


@pytest.mark.parametrize(("shape", "blocks"), [((1, 28, 28), 35.6), ((3, 32, 32), 45.5)], ids=["mnist", "cifar-10"])
def test_prototype_blocks_read_z_as_an_image(shape, blocks):
    images = torch.randint(0, 255, (20, *shape), dtype=torch.uint8)
    embedding = ClassEmbedding.prototype(images, torch.arange(20) % 10, 10)
    made = denoising_blocks(10, shape, embedding)
    assert million_parameters(made) == pytest.approx(blocks, abs=0.06)
    z = torch.randn(2, embedding.dim)
    assert made[0](z, torch.randn(2, *shape)).shape == (2, 10)


def test_relu_after_pooling_equals_the_papers_order():
    """Values and gradients of conv - ReLU - pool and conv - pool - ReLU are the same, and so is the whole encoder."""
    torch.manual_seed(0)
    ours = image_encoder(3, (4, 5, 6), dropout=0.0)
    convolutions = [m for m in ours if isinstance(m, nn.Conv2d)]
    paper = nn.Sequential(
        convolutions[0], nn.ReLU(), nn.MaxPool2d(2), convolutions[1], nn.ReLU(),
        convolutions[2], nn.ReLU(), nn.MaxPool2d(2), FlattenChannelsLast(),
    )  # fmt: skip
    x = torch.randn(4, 3, 8, 8)
    weights = torch.randn(4, 24)
    for network in (ours, paper):
        network.zero_grad()
        y = network(x)
        (y * weights).sum().backward()
        if network is ours:
            expected, gradients = y.detach(), [c.weight.grad.clone() for c in convolutions]
    torch.testing.assert_close(y.detach(), expected)
    for convolution, gradient in zip(convolutions, gradients, strict=True):
        torch.testing.assert_close(convolution.weight.grad, gradient)


def test_flattening_channels_last_is_a_view_and_loses_nothing():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    flat = FlattenChannelsLast()(x)
    assert flat.data_ptr() == x.data_ptr()
    assert torch.equal(flat[1].view(4, 5, 3)[2, 1], x[1, :, 2, 1])


def test_block_fuses_as_in_figure_6():
    """The block against its formula, in evaluation (a fresh batch norm does nothing then but scale by eps)."""
    torch.manual_seed(0)
    block = DenoisingBlock(nn.Flatten(), 6, 3, 4, hidden=8).eval()
    z, x = torch.randn(5, 4), torch.randn(5, 6)
    eps = (1 + 1e-5) ** -0.5

    def linear(layer, value):
        return value @ layer.weight.T + layer.bias

    h = (linear(block.label_path[0], z) * eps).relu()
    inner = block.label_path[3].change
    h = h + linear(inner[3], (linear(inner[0], h) * eps).relu()) * eps
    image = linear(block.image_path[1], x) * eps
    f = block.fusion
    fused = (linear(f[0], torch.cat([image, h], dim=1)) * eps).relu()
    fused = (linear(f[3], fused) * eps).relu()
    torch.testing.assert_close(block(z, x), linear(f[6], fused))


def test_batch_of_one_trains_with_running_statistics():
    block = DenoisingBlock(nn.Flatten(), 6, 3, 4, hidden=8)
    before = {name: b.clone() for name, b in block.named_buffers()}
    z, x = torch.randn(1, 4), torch.randn(1, 6)
    trained = block(z, x)
    torch.testing.assert_close(trained, block.eval()(z, x))
    assert all(torch.equal(b, before[name]) for name, b in block.named_buffers())


@pytest.mark.parametrize("start", ["zero", "noise"])
def test_residual_chain_is_equations_17_to_19(start):
    torch.manual_seed(0)
    embedding = ClassEmbedding(torch.randn(3, 4), learned=True)
    blocks = nn.ModuleList(DenoisingBlock(nn.Flatten(), 6, 3, 4, hidden=8) for _ in range(3)).eval()
    chain = ResidualChain(blocks, embedding, start=start)
    with torch.no_grad():
        chain.w.copy_(torch.tensor([0.3, -0.2, 1.0]))
    x = torch.randn(5, 6)
    torch.manual_seed(7)
    found = chain(x)
    torch.manual_seed(7)
    z = torch.randn(5, 4) if start == "noise" else torch.zeros(5, 4)
    for w, block in zip((0.3, -0.2, 1.0), blocks, strict=True):
        a = torch.tanh(torch.tensor(w))
        z = (1 - a) * z + a * (block(z, x).softmax(dim=1) @ embedding.rows)
    torch.testing.assert_close(found, z @ chain.head.weight.T + chain.head.bias)


def test_residual_chain_starts_with_equal_shares():
    chain = ResidualChain(nn.ModuleList([nn.Identity()]), ClassEmbedding.one_hot(3), share=0.25)
    assert chain.w.tanh().item() == pytest.approx(0.25)

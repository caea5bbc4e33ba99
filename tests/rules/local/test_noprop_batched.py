"""Batched blocks against the loop, which the tests of NoProp-DT compare with the paper's equations."""

import copy

import pytest
import torch
from batched_parts import CLASSES, STEPS, block_gradients, images, paper_rule
from torch import nn

from beyondprop.errors import NonFiniteError, UnsupportedNetworkError, UserError
from beyondprop.rules.local.noprop import ClassEmbedding, DenoisingBlock, NoPropDT

FEATURES, BATCH = 5, 8


class OwnBlock(nn.Module):
    """As a user may write it: layer norm, a tied weight, a gate, and buffers it moves, in place and by setting them."""

    def __init__(self, dim=CLASSES, width=6):
        super().__init__()
        self.inner = nn.Linear(dim + FEATURES, width)
        self.again = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.gate.weight = self.again.weight
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_z", torch.zeros(()))

    def forward(self, z, x):
        self.calls += 1
        self.mean_z = 0.5 * self.mean_z + z.detach().mean()
        h = self.norm(self.inner(torch.cat([z, x], dim=1)).tanh())
        return self.out(self.again(h) * self.gate(h).sigmoid())


@pytest.fixture
def batch():
    return torch.randn(BATCH, FEATURES), torch.randint(CLASSES, (BATCH,))


def own_rule(**options):
    return NoPropDT([OwnBlock() for _ in range(STEPS)], ClassEmbedding.one_hot(CLASSES), **options)


def twins(rule):
    """The same rule twice: as a loop, and batched."""
    batched = copy.deepcopy(rule)
    batched.execution = "batched"
    return rule, batched


def assert_same_grads(loop, batched, **tolerance):
    for (name, p), q in zip(loop.named_parameters(), batched.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def assert_same_block_gradients(loop, batched):
    """Block by block, for float32: the gradient of a bias before batch norm is nothing but rounding."""
    for expected, found in zip(block_gradients(loop), block_gradients(batched), strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm()


def backward_both(loop, batched, x, y, seed=1):
    losses = []
    for rule in (loop, batched):
        torch.manual_seed(seed)
        losses.append(rule.backward(x, y))
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("embedding", ["one-hot", "learned", "prototype"])
def test_loss_every_gradient_and_every_statistic_equal_the_loops(embedding, dtype):
    """Over three optimizer steps, in the paper's blocks without dropout."""
    loop, batched = twins(paper_rule(embedding).to(dtype))
    optimizers = [torch.optim.SGD(rule.parameters(), lr=0.05) for rule in (loop, batched)]
    exact = dtype == torch.float64
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if exact else {"rtol": 1e-3, "atol": 1e-4}
    for step in range(3):
        x, y = images()
        losses = backward_both(loop, batched, x.to(dtype), y, seed=step)
        torch.testing.assert_close(losses[1], losses[0], **tolerance)
        if exact:
            assert_same_grads(loop, batched, **tolerance)
        assert_same_block_gradients(loop, batched)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for (key, value), other in zip(loop.state_dict().items(), batched.state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, msg=key, **tolerance)
    norms = [m for m in batched.modules() if isinstance(m, nn.BatchNorm1d)]
    assert all(m.num_batches_tracked == 3 for m in norms)


def test_blocks_of_the_users_own_equal_the_loop(batch):
    """With weights that are tied within a block, and buffers that are moved or set."""
    loop, batched = twins(own_rule())
    for seed in range(2):  # gradients accumulate
        losses = backward_both(loop, batched, *batch, seed=seed)
        torch.testing.assert_close(losses[1], losses[0])
        assert_same_grads(loop, batched)
    for ours, theirs in zip(batched.network, loop.network, strict=True):
        assert ours.calls == 2
        torch.testing.assert_close(ours.mean_z, theirs.mean_z)
    assert len({block.mean_z.item() for block in batched.network}) == STEPS


def test_evaluation_mode_moves_no_statistics():
    loop, batched = twins(paper_rule(dropout=0.5).eval())
    before = copy.deepcopy(dict(batched.named_buffers()))
    losses = backward_both(loop, batched, *images())
    torch.testing.assert_close(losses[1], losses[0])
    assert_same_grads(loop, batched, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in batched.named_buffers())


def test_one_sample_is_taken_as_the_loop_takes_it():
    loop, batched = twins(paper_rule())
    losses = backward_both(loop, batched, *images(1))
    torch.testing.assert_close(losses[1], losses[0])


def test_frozen_parameters_get_no_gradient(batch):
    """One frozen in one block alone, and another block frozen whole."""
    loop, batched = twins(own_rule())
    for rule in (loop, batched):
        rule.network[1].inner.weight.requires_grad_(False)
        rule.network[2].requires_grad_(False)
    backward_both(loop, batched, *batch)
    assert batched.network[1].inner.weight.grad is None
    assert batched.network[1].inner.bias.grad is not None
    assert_same_grads(loop, batched)


def test_a_share_of_the_blocks_learns_what_it_learns_in_the_loop(batch):
    loop, batched = twins(own_rule())
    for rule in (loop, batched):
        rule.train_only([3, 1], head=False)
    losses = backward_both(loop, batched, *batch)
    torch.testing.assert_close(losses[1], losses[0])
    assert_same_grads(loop, batched)
    assert batched.network[1].out.weight.grad is None
    for rule in (loop, batched):
        rule.train_only([], head=True)
    losses = backward_both(loop, batched, *batch)
    assert torch.equal(losses[1], losses[0])


def test_bf16_autocast_is_as_close_to_float32_as_the_loop():
    loop, batched = twins(paper_rule(width=16))
    exact = copy.deepcopy(loop)
    x, y = images(128)
    expected_loss = backward_both(exact, copy.deepcopy(exact), x, y)[0]
    with torch.autocast("cpu", torch.bfloat16):
        losses = backward_both(loop, batched, x, y)
    torch.testing.assert_close(losses[1], expected_loss, rtol=0.01, atol=0)
    for expected, theirs, ours in zip(*map(block_gradients, (exact, loop, batched)), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - expected).norm() < 1.5 * (theirs - expected).norm()
        assert (ours - expected).norm() < 0.5 * expected.norm()


def test_a_copy_shares_nothing_with_what_it_was_copied_from(batch):
    rule = own_rule(execution="batched")
    rule.backward(*batch)
    before = copy.deepcopy(rule.state_dict())
    twin = copy.deepcopy(rule)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    twin.backward(*batch)
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in rule.state_dict().items())
    assert not torch.equal(twin.network[2].out.weight, rule.network[2].out.weight)


def test_nan_names_the_block_and_reaches_no_gradient(batch):
    rule = own_rule(execution="batched")
    with torch.no_grad():
        rule.network[1].out.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="block 2"):
        rule.backward(*batch)
    assert all(p.grad is None for p in rule.network.parameters())


class Scaled(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.inner = nn.Linear(CLASSES, CLASSES)
        self.factor = factor

    def forward(self, z, x):
        del x
        return self.factor * self.inner(z)


def hooked():
    block = Scaled()
    block.inner.register_forward_hook(lambda *_: None)
    return block


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: Scaled(2.0), r"block 2 differs from block 1 in the block itself: its attribute factor"),
        (lambda: Scaled(torch.ones(3)), "attribute factor"),
        (OwnBlock, "block 2 is made of other modules"),
        (hooked, "in inner: its attribute forward_hooks"),
        (lambda: Scaled().double(), "in inner: its tensors"),
        (lambda: nn.ModuleDict({"inner": nn.Identity()}), "ModuleDict is not Scaled"),
    ],
    ids=["number", "tensor", "modules", "hook", "dtype", "class"],
)
def test_blocks_that_differ_are_refused_and_named(other, words):
    with pytest.raises(UnsupportedNetworkError, match=words):
        NoPropDT([Scaled(), other()], ClassEmbedding.one_hot(CLASSES), execution="batched")
    NoPropDT([Scaled(), other()], ClassEmbedding.one_hot(CLASSES))


def test_widths_that_differ_are_refused():
    blocks = [DenoisingBlock(nn.Flatten(), FEATURES, CLASSES, CLASSES, hidden=width) for width in (4, 4, 6)]
    with pytest.raises(UnsupportedNetworkError, match=r"block 3 .* execution=\"loop\""):
        NoPropDT(blocks, ClassEmbedding.one_hot(CLASSES), execution="batched")


def test_equal_tensors_outside_buffers_are_no_difference():
    blocks = [Scaled(torch.ones(3)), Scaled(torch.ones(3))]
    assert NoPropDT(blocks, ClassEmbedding.one_hot(CLASSES), execution="batched").execution == "batched"


def test_modes_that_differ_are_refused(batch):
    rule = own_rule(execution="batched")
    rule.network[1].norm.eval()
    with pytest.raises(UnsupportedNetworkError, match="training mode"):
        rule.backward(*batch)


class Branches(nn.Module):
    """What vmap cannot run: the way depends on the data."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        h = self.inner(x)
        return h if h.sum().item() > 0 else -h


def test_what_vmap_cannot_run_is_told(batch):
    def make(**options):
        return NoPropDT.for_classifier(Branches(), batch[0], CLASSES, steps=2, hidden=4, **options)

    with pytest.raises(UnsupportedNetworkError, match=r"vmap.*item.*execution=\"loop\""):
        make(execution="batched")
    rule = make()
    rule.backward(*batch)
    rule.execution = "batched"
    with pytest.raises(UnsupportedNetworkError, match="vmap"):
        rule.backward(*batch)


def test_logits_of_another_shape_are_told(batch):
    blocks = [DenoisingBlock(nn.Identity(), FEATURES, 4, CLASSES, hidden=6) for _ in range(2)]
    with pytest.raises(UnsupportedNetworkError, match=r"block 1 returns shape \(8, 4\)"):
        NoPropDT(blocks, ClassEmbedding.one_hot(CLASSES), execution="batched").backward(*batch)


@pytest.mark.parametrize(
    "options", [{"execution": "together"}, {"execution": "batched", "order": "one-by-one"}], ids=str
)
def test_wrong_options_are_refused(options):
    with pytest.raises(UserError, match=r"execution"):
        own_rule(**options)


def test_without_a_compiler_the_error_says_what_to_do(batch, monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr("beyondprop.rules.local.noprop.batched._compiled", lambda: no_compiler)
    with pytest.raises(UserError, match=r'torch.compile .*\(No working C\+\+ compiler found\): use execution="loop"'):
        own_rule(execution="compiled").backward(*batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, within torch
def test_compiled_equals_the_loop():
    loop, compiled = twins(paper_rule())
    compiled.execution = "compiled"
    x, y = images()
    try:
        losses = backward_both(loop, compiled, x, y)
    except UnsupportedNetworkError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(losses[1], losses[0])
    assert_same_block_gradients(loop, compiled)
    for name, value in compiled.named_buffers():
        torch.testing.assert_close(value, loop.get_buffer(name), msg=name)

"""ResCNet as a whole against a layer-by-layer reference, and what its fit depends on."""

import copy

import numpy as np
import pytest
import torch
from rescnet_images import CLASSES, close, images, network
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from beyondprop import data
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.solvers.rescnet import features as features_module
from beyondprop.solvers.rescnet.features import features_of
from beyondprop.solvers.rescnet.filters import patches_of
from beyondprop.solvers.rescnet.network import ResCNet
from beyondprop.solvers.rescnet.ridge import narrow_products
from beyondprop.solvers.rescnet.store import SampleStore, fingerprints


@pytest.mark.parametrize(
    "options",
    [
        {"mirror": True, "grid": 2, "held_out": 0.2},
        {"contrast": None},
        {"carry": 0, "grid": 3},
        {"leave_one_out": False},
    ],
    ids=str,
)
def test_a_network_is_the_same_without_compiled_loops(options, monkeypatch):
    x, y = images(dtype=torch.float32)
    if features_module.compiled(features_module.LOOPS) is None:
        pytest.skip("Numba is not installed")
    ours = network(**options).float().fit(x, y)
    narrow = copy.deepcopy(ours).bfloat16()(x.bfloat16())
    monkeypatch.setattr(features_module, "compiled", lambda _module: None)
    torch.testing.assert_close(ours(x), network(**options).float().fit(x, y)(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(narrow.float(), ours(x), rtol=0, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_have_a_gradient_in_the_images(dtype):
    x, y = images(dtype=dtype)
    solver = network(layers=3).to(dtype).fit(x, y)
    seen = x[:3].clone().requires_grad_()
    scores = solver(seen)
    torch.testing.assert_close(scores.detach(), solver(x[:3]), rtol=1e-4, atol=1e-4)
    scores[:, 1].sum().backward()
    if dtype == torch.float64:
        step = 1e-6 * torch.randn(seen.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            rise = (solver(x[:3] + step) - solver(x[:3] - step))[:, 1].sum() / 2
        torch.testing.assert_close((seen.grad * step).sum(), rise, rtol=1e-3, atol=1e-12)
    assert (seen.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("left_out", [True, False], ids=["left-one-out", "fitted"])
def test_each_layer_fits_what_those_before_it_leave_over(left_out):
    """A reference in the open: features of each layer by its own filters, ridge by scikit-learn, labels from Σ."""
    x, y = images()
    order = fingerprints(x, y).argsort(stable=True)
    x, y = x[order], y[order]
    solver = network(leave_one_out=left_out, line_search=False, rate=0.7).fit(x, y)
    residual, maps, scores = F.one_hot(y, CLASSES).double(), None, 0
    for layer in solver.layers:
        seen = x if maps is None else torch.cat([x, maps], dim=1)
        patches = patches_of(seen, 3, 0.1)
        responses = (patches @ layer.filters.flatten(1).T - layer.shift).mT.unflatten(2, (6, 6))
        close(responses.mean(dim=(0, 2, 3)), torch.zeros(8))
        close(responses.std(dim=(0, 2, 3)), torch.ones(8))
        maps = F.relu(responses[:, :3] - 0.5)
        maps = (maps - maps.mean(dim=(0, 2, 3), keepdim=True)) / maps.std(dim=(0, 2, 3), keepdim=True)
        phi = features_of(responses, "first", 2, 0.5)
        z = ((phi - phi.mean(dim=0)) / phi.std(dim=0, correction=0)).numpy()
        model = Ridge(alpha=0.05 * len(x)).fit(z, residual.numpy())
        predicted = torch.from_numpy(model.predict(z))
        scores = scores + 0.7 * predicted
        if left_out:
            hat = z @ np.linalg.solve(z.T @ z + 0.05 * len(x) * np.eye(z.shape[1]), z.T)
            leverage = torch.from_numpy(hat.diagonal().copy()) + 1 / len(x)
            predicted = residual - (residual - predicted) / (1 - leverage)[:, None]
        residual = residual - 0.7 * predicted
    close(solver(x), scores, atol=1e-8)


def test_the_residual_falls_with_depth_in_sample_and_does_not_collapse_left_out():
    x, y = images(dtype=torch.float32)
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]  # nothing to learn
    fitted, left_out, whole = (
        network(layers=8, ridge=0.01, **options).float().fit(x, y).course[:, 1]
        for options in ({"leave_one_out": False, "line_search": False}, {}, {"line_search": False})
    )
    assert (fitted.diff() <= 1e-6).all()
    assert fitted[-1] < 0.1
    start = F.one_hot(y, CLASSES).float().square().mean().sqrt()
    assert (left_out.diff() <= 1e-6).all()  # by default: labels of noise stay labels of noise
    assert left_out[-1] > 0.7 * start
    assert whole[-1] > whole[0] > start  # taken whole, what is left out grows


def test_order_and_size_of_batches_are_of_no_matter():
    x, y = images()
    solver = network(held_out=0.2)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    other = network(held_out=0.2).fit(x[order], y[order], batch_size=7)
    solver.fit(x, y)
    for name, value in solver.state_dict().items():
        assert torch.equal(value.nan_to_num(), other.state_dict()[name].nan_to_num()), name


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_fit_that_goes_on_elsewhere_ends_with_the_same_bits(place):
    x, y = images()
    options = {"held_out": 0.2, "mirror": True, "place": place}
    whole, first, second = network(**options).fit(x, y), network(**options), network(**options, seed=5)
    for part in first.passes[:2]:
        first.run_pass(part, [(x, y)])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for part in first.passes[2:]:
        second.run_pass(part, [(x[20:], y[20:]), (x[:20], y[:20])])
    assert int(second.depth) == int(whole.depth)
    for name, value in whole.state_dict().items():
        assert torch.equal(value.nan_to_num(), second.state_dict()[name].nan_to_num()), name
    assert second._store is None
    assert not len(second.residual)


def test_a_fit_takes_as_much_memory_with_many_layers(monkeypatch):
    x, y = images()
    taken: list[int] = []
    right = SampleStore.room

    def room(self, *given):
        made = right(self, *given)
        taken.append(made.nbytes)
        return made

    monkeypatch.setattr(SampleStore, "room", room)
    sizes = []
    for layers in (2, 9):
        taken.clear()
        network(layers=layers).fit(x, y)
        sizes.append(sum(taken))
    assert sizes[0] == sizes[1] > 0


def test_constant_images_leave_nothing_to_search():
    y = torch.arange(30) % CLASSES
    solver = network(leave_one_out=False).float().fit(torch.ones(30, 2, 6, 6), y)
    assert solver.course[:, :2].isfinite().all()
    assert solver(torch.ones(2, 2, 6, 6)).isfinite().all()


def test_passes_after_the_first_read_one_batch():
    x, y = images()
    read = []

    def batches():
        for start in range(0, 60, 20):
            read.append(start)
            yield x[start : start + 20], y[start : start + 20]

    network().fit_batches(batches)
    assert read == [0, 20, 40, 0, 0, 0]


def test_samples_held_out_choose_the_depth_and_are_not_fitted_to():
    x, y = images()
    solver = network(held_out=0.5, layers=6, ridge=1e-3).fit(x, y)
    order = fingerprints(x, y).argsort(stable=True)
    held = order[:30]
    right = torch.stack([(solver(x[held], depth=d).argmax(dim=1) == y[held]).double().mean() for d in range(1, 7)])
    close(solver.course[:, 2], right, atol=1e-6)
    assert int(solver.depth) == int(right.argmax()) + 1
    assert solver.figures("layer 3") == {"held_out_accuracy": pytest.approx(float(right[2]))}
    assert network().fit(x, y).figures("layer 1") == {}
    flipped = y.clone()
    flipped[held] = (y[held] + 1) % CLASSES  # other labels move samples in the store, and the split with them
    assert len(set(fingerprints(x, y).tolist()) & set(fingerprints(x, flipped).tolist())) == 30
    close(solver(x), solver(x, depth=int(solver.depth)))
    assert torch.equal(solver.right_by_depth(x, y)[-1], (solver(x, depth=6).argmax(dim=1) == y).sum())


def test_mirror_images_are_classified_alike():
    x, y = images()
    solver = network(mirror=True, unshuffle=2).fit(x, y)
    close(solver(x.flip(3)), solver(x))
    assert not torch.allclose(network(unshuffle=2).fit(x, y)(x.flip(3)), network(unshuffle=2).fit(x, y)(x))


def test_narrow_products_agree_with_wide_ones():
    x, y = images(count=300, dtype=torch.float32)
    wide, narrow = network(ridge=0.3).float().fit(x, y), network(ridge=0.3, narrow=True).float().fit(x, y)
    close(narrow(x), wide(x), atol=0.1)
    setting = torch.backends.mkldnn.matmul.fp32_precision
    with narrow_products(True):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == setting


def test_learns_the_digits():
    splits = data.load("digits")
    train, test = (((part.images / part.high - 0.3) / 0.37, part.labels) for part in splits)
    torch.manual_seed(0)
    solver = ResCNet((1, 8, 8), 10, layers=4, filters=32, carry=8, ridge=0.1, samples=300).fit(*train)
    assert (solver(test[0]).argmax(dim=1) == test[1]).double().mean() > 0.95


@pytest.mark.parametrize(
    "options",
    [
        {"basis": "components", "filters": 8},
        {"features": "second", "filters": 12},
        {"features": "histogram"},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_every_kind_of_layer_learns_the_digits(options):
    splits = data.load("digits")
    train, test = (((part.images / part.high - 0.3) / 0.37, part.labels) for part in splits)
    chosen = {"filters": 16, "carry": 4, "ridge": 0.1, "samples": 300, "seed": 0, "held_out": 0.1} | options
    solver = ResCNet((1, 8, 8), 10, layers=3, **chosen).fit(*train)
    assert (solver(test[0]).argmax(dim=1) == test[1]).double().mean() > 0.93
    assert (solver.course[:, 1].diff() <= 1e-6).all()


def test_what_cannot_be_fitted_is_told_in_one_line(one_line):
    x, y = images()
    for options, words in (
        ({"patch": 2}, "odd"),
        ({"carry": 9}, "carry"),
        ({"unshuffle": 4}, "unshuffled"),
        ({"grid": 7}, "grid"),
        ({"rate": 1.5}, "rate"),
        ({"held_out": 1.0}, "held_out"),
        ({"features": "third"}, "features"),
        ({"basis": "fourier"}, "basis"),
        ({"features": "histogram", "filters": 12}, "divisible"),
        ({"place": "tape"}, "place"),
        ({"layers": 0}, "layers"),
        ({"contrast": 0.0}, "contrast"),
    ):
        with one_line(UserError, words):
            network(**options)
    with one_line(UserError, "0..2", "got 3"):
        network().fit(x, y + 1)
    with one_line(UserError, "(batch, 2, 6, 6)"):
        network().fit(x[:, :1], y)
    with one_line(UserError, "raise it"):
        network(ridge=1e-30, filters=40, basis="prototypes").fit(x[:10], y[:10])
    with one_line(UserError, "17 principal components"):
        network(basis="components", filters=20).fit(x, y)
    x[0, 0, 0, 0] = torch.nan
    with one_line(NonFiniteError, "NaN"):
        network().fit(x, y)
    half = network()
    half.run_pass("layer 1", [images()])
    moved = network()
    moved.load_state_dict(half.state_dict())
    with one_line(UserError, "60", "not 50"):
        moved.run_pass("layer 2", [images(50)])
    x, y = images()
    for other in ((x.flip(3), y), (x, y.roll(1))):
        with one_line(UserError, "other samples"):
            moved.run_pass("layer 2", [other])
    with one_line(UserError, "leaves none to fit"):
        network(held_out=0.99).fit(x[:30], y[:30])

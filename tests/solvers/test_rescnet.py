"""ResCNet's pieces against scikit-learn and brute force, and the whole against a layer-by-layer reference."""

import copy
import importlib

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from beyondprop import data
from beyondprop.compiled import compiled
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.solvers.rescnet import features as features_module
from beyondprop.solvers.rescnet.features import (
    binary_codes,
    can_pool,
    feature_count,
    features_of,
    pooled_responses,
    sliding_histograms,
)
from beyondprop.solvers.rescnet.filters import (
    PatchCovariance,
    patches_of,
    principal_filters,
    prototype_filters,
    respond,
)
from beyondprop.solvers.rescnet.network import ResCNet
from beyondprop.solvers.rescnet.ridge import RidgeClassifier, narrow_products
from beyondprop.solvers.rescnet.store import SampleStore, fingerprints

CLASSES = 3


def images(count=60, dtype=torch.float64, channels=2, side=6):
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(count) % CLASSES
    x = torch.randn(count, channels, side, side, generator=generator, dtype=dtype)
    x[:, 0, 1, :CLASSES] += 2 * F.one_hot(y, CLASSES)
    return x, y


def network(**options):
    chosen = {"layers": 4, "filters": 8, "carry": 3, "held_out": 0.0, "ridge": 0.05, "seed": 0} | options
    return ResCNet((2, 6, 6), CLASSES, **chosen).double()


def close(found, wanted, atol=1e-9):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol, check_dtype=False)


def test_filters_are_scikit_learns_components_of_streamed_patches():
    x, _ = images()
    covariance = PatchCovariance(18, x.device)
    for batch in x.split(7):
        covariance.add(batch, 3)
    rows = patches_of(x, 3, None).flatten(0, 1).numpy()
    pca = PCA(n_components=6).fit(rows)
    filters = principal_filters(covariance, 6, 2).flatten(1)
    aligned = (filters * torch.from_numpy(pca.components_)).sum(dim=1)
    close(aligned.abs(), torch.ones(6))
    close(covariance.components()[0][:6], torch.from_numpy(pca.explained_variance_))
    close(covariance.mean, torch.from_numpy(pca.mean_))


@pytest.mark.parametrize("contrast", [None, 0.1])
def test_maps_give_the_covariance_of_their_patches(contrast):
    maps = torch.randn(6, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 2
    covariance = PatchCovariance(18, maps.device)
    for some in maps.split(4):
        covariance.add(some, 3, contrast)
    rows = patches_of(maps, 3, contrast).flatten(0, 1)
    assert covariance.count == len(rows)
    close(covariance.mean, rows.mean(dim=0))
    close(covariance.matrix, rows.T.cov())
    bright = PatchCovariance(18, maps.device)  # to a large mean float32 would lose most digits
    bright.add((maps + 1000).float(), 3)
    close(bright.matrix, patches_of(maps + 1000, 3, None).flatten(0, 1).T.cov(), atol=0.05)
    with pytest.raises(NonFiniteError, match="maps hold NaN"):
        covariance.add(torch.full((1, 2, 9, 8), torch.nan), 3)
    with pytest.raises(NonFiniteError, match="squares are infinite"):
        covariance.add(1e30 * maps.float(), 3)


def test_responses_are_products_with_normalised_patches():
    x, _ = images()
    covariance = PatchCovariance(18, x.device)
    covariance.add(x, 3, 0.1)
    filters = principal_filters(covariance, 5, 2)
    for contrast in (None, 0.1):
        wanted = (patches_of(x, 3, contrast) @ filters.flatten(1).T).mT.unflatten(2, (6, 6))
        close(respond(x, filters, contrast), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_pooled_in_one_go_responses_have_the_same_features(grid, dtype):
    torch.manual_seed(0)
    found, scale, shift = torch.randn(5, 11, 8, 7).to(dtype), torch.rand(5, 8, 7) + 0.5, torch.randn(11)
    if not can_pool(found):
        pytest.skip("Numba is not installed")
    responses = found.float() * scale.unsqueeze(1) - shift.view(-1, 1, 1)
    wanted = features_of(responses, "first", grid, 0.3)
    threads = torch.get_num_threads()
    try:
        for layout, count in ((torch.contiguous_format, 1), (torch.channels_last, 3), (torch.channels_last, 8)):
            torch.set_num_threads(count)
            pooled = pooled_responses(found.contiguous(memory_format=layout), scale, shift, grid, 0.3)
            torch.testing.assert_close(pooled, wanted, rtol=1e-6, atol=1e-6)
    finally:
        torch.set_num_threads(threads)
    scale[2] = torch.nan
    assert pooled_responses(found, scale, shift, grid, 0.3).isnan().all(dim=1).tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert not can_pool(found.double())
    assert not can_pool(found.detach().requires_grad_())
    assert not can_pool(found.to("meta"))


@pytest.mark.parametrize("grids", [(), (1,), (3, 2, 1)])
def test_compiled_histograms_are_those_of_torch(grids, monkeypatch):
    codes = torch.randint(0, 256, (4, 3, 11, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes[:, :, :5] = 7
    if features_module.compiled(features_module.LOOPS) is None:
        pytest.skip("Numba is not installed")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ours = sliding_histograms(codes, 4, 2, grids)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(features_module, "compiled", lambda _module: None)
    torch.testing.assert_close(ours, sliding_histograms(codes, 4, 2, grids), rtol=0, atol=1e-7)


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


def test_a_numba_that_cannot_be_imported_is_done_without(monkeypatch):
    compiled.cache_clear()
    monkeypatch.setattr(importlib, "import_module", lambda _name: raising(ImportError("needs NumPy 2.1 or less")))
    with pytest.warns(UserWarning, match="needs NumPy"):
        assert compiled("beyondprop.solvers.rescnet.compiled") is None
    compiled.cache_clear()


def raising(error):
    raise error


def test_prototypes_compare_in_whitened_space():
    x, _ = images()
    patches = patches_of(x, 3, None).flatten(0, 1)
    covariance = PatchCovariance(18, x.device)
    covariance.add(x, 3)
    filters = prototype_filters(covariance, patches[:4], 0.0, 2).flatten(1)
    pca = PCA(n_components=17, whiten=True).fit(patches.numpy())
    white = pca.transform(patches.numpy())
    wanted = white @ (white[:4] / np.linalg.norm(white[:4], axis=1, keepdims=True)).T
    close((patches - covariance.mean) @ filters.T, torch.from_numpy(wanted))


@pytest.mark.parametrize("count", [40, 13], ids=["more samples", "more features"])
def test_leave_one_out_residuals_are_those_of_refits(count):
    generator = torch.Generator().manual_seed(0)
    phi = 5 + torch.randn(count, 20, generator=generator, dtype=torch.float64)
    y = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    fit = RidgeClassifier(phi, y, 0.1)
    left = (y - fit.predicted(phi)) / (1 - fit.leverages(phi))[:, None]
    scale = phi.std(dim=0, correction=0)
    for i in range(count):
        rest = torch.arange(count) != i
        model = Ridge(alpha=0.1 * count).fit((phi[rest] / scale).numpy(), y[rest].numpy())
        close(left[i], y[i] - torch.from_numpy(model.predict((phi[i : i + 1] / scale).numpy())[0]))
    soft = RidgeClassifier(phi, y, 0.1, floor=0.5)
    softened = (scale.square() + 0.5 * scale.square().mean()).sqrt()
    other = Ridge(alpha=0.1 * count).fit((phi / softened).numpy(), y.numpy())
    close(soft.predicted(phi), torch.from_numpy(other.predict((phi / softened).numpy())))
    whole = Ridge(alpha=0.1 * count).fit((phi / scale).numpy(), y.numpy())
    close(fit.predicted(phi), torch.from_numpy(whole.predict((phi / scale).numpy())))


@pytest.mark.parametrize("narrow", [False, True])
def test_what_leaving_out_leaves_is_above_zero_near_interpolation(narrow):
    generator = torch.Generator().manual_seed(0)
    phi, y = torch.randn(200, 300, generator=generator), torch.randn(200, 2, generator=generator)
    fit = RidgeClassifier(phi, y, 1e-6, narrow=narrow)
    wanted = RidgeClassifier(phi.double(), y.double(), 1e-6)
    assert (fit.left_over(phi) > 0).all()
    if not narrow:
        torch.testing.assert_close(fit.left_over(phi), wanted.left_over(phi.double()), rtol=0.3, atol=0)


def test_a_constant_feature_and_a_large_mean_do_no_harm():
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(50, 4, generator=generator)
    y = phi[:, :1] * 2
    spoiled = torch.cat([phi + 1000, torch.full((50, 1), 7.0)], dim=1)
    fit = RidgeClassifier(spoiled, y, 1e-6)
    close(fit.predicted(spoiled), y, atol=1e-3)
    assert fit.weight[:, -1].abs().max() == 0


def test_second_order_features_and_histograms_are_those_written_out():
    responses = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = torch.cat([F.relu(responses - 0.2), F.relu(-responses - 0.2)], dim=1)
    found = features_of(responses, "second", 2, 0.2)
    region = maps[1, :, 2:, :2].flatten(1)
    products = (region @ region.T / 4).sqrt()
    wanted = torch.stack([products[i, j] for i in range(16) for j in range(i, 16)])
    close(found.unflatten(1, (4, -1))[1, 2], wanted)
    close(features_of(responses, "first", 2, 0.2).unflatten(1, (16, 4))[1, :, 2], region.mean(dim=1))
    uneven = features_of(responses, "first", 3, 0.2)
    close(uneven.unflatten(1, (16, 9))[1, :, 4], maps[1, :, 1:3, 1:3].mean(dim=(1, 2)))

    codes = binary_codes(responses)
    assert codes[2, 0, 1, 3] == sum(2**bit for bit in range(8) if responses[2, bit, 1, 3] > 0)
    shares = features_of(responses, "histogram", 2, 0.0).unflatten(1, (4, 256))
    close(shares[0, 3], torch.bincount(codes[0, 0, 2:, 2:].flatten().long(), minlength=256) / 4)
    sliding = sliding_histograms(codes, 2, 1).unflatten(1, (9, 256))
    close(sliding[1, 4], torch.bincount(codes[1, 0, 1:3, 1:3].flatten().long(), minlength=256) / 4)
    pyramid = sliding_histograms(codes, 2, 1, (1,))
    close(pyramid, sliding.amax(dim=1))
    for kind in features_module.KINDS:
        assert features_of(responses, kind, 2, 0.2).shape[1] == feature_count(kind, 8, 2)


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


def test_a_store_orders_samples_by_what_they_are():
    x, y = images()
    stores = []
    for order in (torch.arange(60), torch.arange(59, -1, -1)):
        store = SampleStore("disk")
        for rows in order.split(25):
            store.add(x[rows], y[rows])
        store.close()
        stores.append(store)
    assert torch.equal(stores[0].images, stores[1].images)
    assert torch.equal(stores[0].labels, stores[1].labels)
    assert len(set(fingerprints(x, y).tolist())) == 60


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

"""ResCNet's pieces, its filters, features, ridge and store, against scikit-learn and brute force."""

import importlib

import numpy as np
import pytest
import torch
from rescnet_images import close, images
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from beyondprop.compiled import compiled
from beyondprop.errors import NonFiniteError
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
from beyondprop.solvers.rescnet.ridge import RidgeClassifier
from beyondprop.solvers.rescnet.store import SampleStore, fingerprints


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

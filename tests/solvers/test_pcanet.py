"""PCANet: its stages against scikit-learn and loops, its classifier against a batch solver of the same problem."""

import copy

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.decomposition import PCA

from beyondprop import data
from beyondprop.errors import NonFiniteError, UserError
from beyondprop.solvers.rescnet import pcanet as pcanet_module
from beyondprop.solvers.rescnet.filters import patches_of
from beyondprop.solvers.rescnet.pcanet import PCANet


def images(count=40):
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(count) % 3
    x = torch.randn(count, 1, 6, 6, generator=generator)
    x[torch.arange(count), 0, 2, 2 * y] += 3
    return x, y


def pcanet(**options):
    return PCANet((1, 6, 6), 3, **({"first": 2, "patch": 3, "block": 3, "stride": 3, "passes": 2} | options))


def stages(x, y, batch_size=40, **options):
    solver = pcanet(**options)
    for part in solver.passes[:2]:
        solver.run_pass(part, list(zip(x.split(batch_size), y.split(batch_size), strict=True)))
    return solver


def components(maps, count):
    return torch.from_numpy(PCA(n_components=count).fit(patches_of(maps, 3, None).flatten(0, 1).numpy()).components_)


def test_filters_of_both_stages_are_principal_components():
    x, y = (part.double() if part.is_floating_point() else part for part in images())
    for batch_size in (40, 7):
        solver = stages(x.float(), y, batch_size)
        first = solver.filters[0].flatten(1).double()
        assert ((first * components(x, 2)).sum(dim=1).abs() > 1 - 1e-5).all()
        maps = (patches_of(x, 3, None) @ first.T).mT.reshape(-1, 1, 6, 6)
        second = solver.filters[1].flatten(1).double()
        assert ((second * components(maps, 8)).sum(dim=1).abs() > 1 - 1e-4).all()


def test_features_are_histograms_of_hashed_signs():
    x, y = images()
    solver = stages(x, y)
    patches = (patches_of(x[:1], 3, None) @ solver.filters[0].flatten(1).T).mT.unflatten(2, (6, 6))
    wanted = []
    for down in (0, 3):
        for across in (0, 3):
            for each in patches[0]:
                second = (patches_of(each[None, None], 3, None) @ solver.filters[1].flatten(1).T)[0]
                codes = [sum(2**bit for bit in range(8) if row[bit] > 0) for row in second]
                block = np.array(codes).reshape(6, 6)[down : down + 3, across : across + 3]
                wanted.append(np.bincount(block.ravel(), minlength=256) / 9)
    np.testing.assert_allclose(solver.features(x[:1])[0].numpy(), np.concatenate(wanted), atol=1e-6)


def test_the_classifier_comes_to_the_optimum_of_the_squared_hinge():
    x, y = images()
    decay = 0.05
    solver = pcanet(passes=300, rate=0.05, decay=decay, block=2, stride=1).fit(x, y)
    assert solver.scale < 0.5  # far from one, so that it is seen where it is missing
    features = (solver.features(x) * solver.scale).double().numpy()
    signs = 2 * np.eye(3)[y.numpy()] - 1

    def objective(w):
        weight = w.reshape(3, -1)
        slack = np.maximum(1 - signs * (features @ weight[:, 1:].T + weight[:, 0]), 0)
        return (slack**2).sum() / len(x) + decay / 2 * (weight[:, 1:] ** 2).sum()

    def gradient(w):
        weight = w.reshape(3, -1)
        pull = -2 * signs * np.maximum(1 - signs * (features @ weight[:, 1:].T + weight[:, 0]), 0) / len(x)
        return np.hstack([pull.sum(axis=0)[:, None], pull.T @ features + decay * weight[:, 1:]]).ravel()

    found = torch.cat([solver.linear.bias[:, None], solver.linear.weight], dim=1).double().numpy().ravel()
    best = minimize(objective, np.zeros_like(found), jac=gradient, method="L-BFGS-B", options={"maxiter": 2000}).fun
    assert (1 - 1e-6) * best <= objective(found) < 1.02 * best


def test_a_fit_that_goes_on_elsewhere_ends_with_the_same_bits():
    x, y = images()
    whole, first = pcanet().fit(x, y), stages(x, y)
    first.run_pass(first.passes[2], [(x, y)])
    second = pcanet()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.run_pass(second.passes[3], [(x, y)])
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
    again = whole.fit(x, y)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in again.state_dict().items())


def test_learns_the_digits():
    splits = data.load("digits")
    train, test = (((part.images / part.high - 0.3) / 0.37, part.labels) for part in splits)
    solver = PCANet((1, 8, 8), 10, first=4, patch=3, block=4, stride=2, passes=4).fit(*train, batch_size=200)
    assert (solver(test[0]).argmax(dim=1) == test[1]).double().mean() > 0.9


def test_what_cannot_be_fitted_is_told_in_one_line(one_line):
    x, y = images()
    for options, words in (
        ({"patch": 4}, "odd"),
        ({"block": 7}, "6x6"),
        ({"passes": 0}, "passes"),
        ({"rate": 0.0}, "rate"),
        ({"first": 9}, "8 principal components"),
    ):
        with one_line(UserError, words):
            pcanet(**options).fit(x, y)
    with one_line(UserError, "0..2"):
        pcanet().fit(x, y + 1)
    with one_line(UserError, "(batch, 1, 6, 6)"):
        pcanet().fit(x[:, :, :4], y)
    x[3] = torch.inf
    with one_line(NonFiniteError, "infinity"):
        pcanet().fit(x, y)


def test_scores_are_made_a_few_samples_at_a_time(monkeypatch):
    x, y = images(120)
    solver = pcanet().fit(x, y)
    seen = []
    right = PCANet.features
    monkeypatch.setattr(PCANet, "features", lambda self, x: seen.append(len(x)) or right(self, x))
    assert solver(x).shape == (120, 3)
    assert seen == [50, 50, 20]


def test_a_large_batch_is_many_steps(monkeypatch):
    monkeypatch.setattr(pcanet_module, "BATCH", 16)
    x, y = images(40)
    assert int(pcanet().fit(x, y, batch_size=40).steps) == 2 * 3  # two passes


def test_pixels_may_be_whole_numbers():
    x, y = images(40)
    pixels = (16 * x + 100).clamp(0, 255).byte()
    assert torch.equal(pcanet().fit(pixels, y)(pixels), pcanet().fit(pixels.float(), y)(pixels.float()))

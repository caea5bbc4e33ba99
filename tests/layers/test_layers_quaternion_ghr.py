"""The GHR calculus: tables, product and chain rule, and how the plain sum of partial derivatives fails."""

import re
from pathlib import Path

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.layers.quaternion import ghr
from beyondprop.layers.quaternion.algebra import conjugate, hamilton
from beyondprop.layers.quaternion.symbolic import constant, variable

EXACT = {"rtol": 0, "atol": 1e-10}
ONE = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)


def draw(count, seed=0):
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Q, W, V, MU = draw(4)
RE_W = W[0] * ONE

# f, ∂f/∂q, ∂f/∂q*: left derivatives as arXiv 1409.8168 and 2212.13082 list them.
TABLE = {
    "q": (lambda q: q, ONE, -ONE / 2),
    "q*": (conjugate, -ONE / 2, ONE),
    "wq": (lambda q: hamilton(W, q), W, -W / 2),
    "qw": (lambda q: hamilton(q, W), RE_W, -conjugate(W) / 2),
    "wq*": (lambda q: hamilton(W, conjugate(q)), -W / 2, W),
    "|q|²": (lambda q: q.square().sum(), conjugate(Q) / 2, Q / 2),
}
q, w, v = variable(), constant("w"), constant("v")
FORMULAS = {
    "q": q,
    "q*": q.conjugate(),
    "wq": w * q,
    "qw": q * w,
    "wq*": w * q.conjugate(),
    "|q|²": q * q.conjugate(),
    "wqvq*q - 3q + w": w * q * v * q.conjugate() * q - 3 * q + w,
}


def value(polynomial, q):
    return polynomial(q=q, w=W, v=V, mu=MU)


@pytest.mark.parametrize("name", TABLE)
def test_table_of_derivatives(name):
    f, plain, conjugated = TABLE[name]
    torch.testing.assert_close(ghr.derivative(f, Q), plain, **EXACT)
    torch.testing.assert_close(ghr.derivative(f, Q, conjugated=True), conjugated, **EXACT)
    torch.testing.assert_close(ghr.derivative(f, Q, step=1e-5), plain, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", TABLE)
def test_table_of_formulas(name):
    _, plain, conjugated = TABLE[name]
    torch.testing.assert_close(value(FORMULAS[name].derivative(), Q), plain, **EXACT)
    torch.testing.assert_close(value(FORMULAS[name].derivative(conjugated=True), Q), conjugated, **EXACT)


def test_formulas_as_they_are_printed():
    assert str((w * q).derivative(conjugated=True)) == "-½ w"
    assert str((q * q.conjugate()).derivative()) == "½ q*"
    assert str(w.derivative()) == "0"
    assert str((q * w).derivative() - 2 * q * q) == "½ w + ½ w* - 2 q q"
    assert str(1 - q) == "1 - q"
    assert str((q * w).derivative("μ")) == "½ w + ½ μ* w* μ⁻¹"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("conjugated", [False, True])
@pytest.mark.parametrize("mu", [None, "mu"])
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_equal_numbers_along_any_rotation(name, mu, conjugated, side):
    found = value(FORMULAS[name].derivative(mu, conjugated=conjugated, side=side), Q)
    numbers = ghr.derivative(
        lambda q: value(FORMULAS[name], q), Q, MU if mu else None, conjugated=conjugated, side=side
    )
    torch.testing.assert_close(found, numbers, **EXACT)


def f(q):
    return hamilton(hamilton(q, W), q) + torch.tanh(q)


def g(q):
    return hamilton(V, conjugate(q)) + q.square()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("conjugated", [False, True])
@pytest.mark.parametrize("mu", [None, MU])
def test_product_and_chain_rule_hold(mu, conjugated, side):
    options = {"conjugated": conjugated, "side": side}
    direct = ghr.derivative(lambda q: hamilton(f(q), g(q)), Q, mu, **options)
    torch.testing.assert_close(ghr.product_rule(f, g, Q, mu, **options), direct, **EXACT)
    direct = ghr.derivative(lambda q: f(g(q)), Q, mu, **options)
    torch.testing.assert_close(ghr.chain_rule(f, g, Q, mu, **options), direct, **EXACT)


def test_the_sum_of_partial_derivatives_breaks_both_rules():
    """By closed forms: N(q) = 1 + ii + jj + kk = -2, and N(q ⊗ q) = 2q + Σ_e (e q + q e) e = 2q + (-2q* - q) - 3q."""
    torch.testing.assert_close(ghr.naive(lambda q: q, Q), -2 * ONE, **EXACT)
    torch.testing.assert_close(ghr.naive(lambda q: hamilton(q, q), Q), -2 * Q - 2 * conjugate(Q), **EXACT)
    product = ghr.naive_product_rule(lambda q: q, lambda q: q, Q) - ghr.naive(lambda q: hamilton(q, q), Q)
    torch.testing.assert_close(product, -2 * Q + 2 * conjugate(Q), **EXACT)  # -4q where -4 Re(q) is right
    chain = ghr.naive_chain_rule(lambda q: q, lambda q: q, Q) - ghr.naive(lambda q: q, Q)
    torch.testing.assert_close(chain, 6 * ONE, **EXACT)  # 4 where -2 is right
    torch.testing.assert_close(  # and yet it is linear from the left
        ghr.naive(lambda q: hamilton(W, f(q)), Q), hamilton(W, ghr.naive(f, Q)), **EXACT
    )


def test_the_page_prints_by_how_much_each_rule_is_off(capsys):
    """The example of docs/rules/quaternion.md: both naive rules fail by what its text says, the calculus does not."""
    text = (Path(__file__).parents[2] / "docs" / "rules" / "quaternion.md").read_text(encoding="utf-8")
    (example,) = [body for body in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "naive_chain_rule" in body]
    exec(example, {})
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines() if "rule: " in line)
    off = {name: float(re.search(r"tensor\(([^,]+),", value)[1]) for name, value in printed.items()}
    assert off["GHR, product rule"] < 1e-13
    assert off["GHR, chain rule"] < 1e-13
    assert off["sum of partials, product rule"] == pytest.approx(71.3431, abs=1e-4)
    assert off["sum of partials, chain rule"] == pytest.approx(79.9624, abs=1e-4)
    told = " ".join(text.split())
    assert (
        "off by 71.3 by the product rule and by 80.0 by the chain rule, the GHR derivatives by less than $10^{-13}$"
        in told
    )


def test_a_real_gradient_is_four_times_the_steepest_ascent():
    def loss(q):
        return (hamilton(W, q) - V).square().sum() * q[1].exp()

    real = torch.autograd.functional.jacobian(loss, Q)
    torch.testing.assert_close(4 * ghr.gradient(loss, Q), real, **EXACT)
    torch.testing.assert_close(4 * ghr.derivative(loss, Q), conjugate(real), **EXACT)
    for side in ("left", "right"):  # a real function has no sides
        torch.testing.assert_close(ghr.derivative(loss, Q, side=side), conjugate(real) / 4, **EXACT)


def test_substitution_is_a_chain():
    outer, inner = w * q * q.conjugate(), q * v + 2
    nested = lambda q: value(outer, value(inner, q))  # noqa: E731
    torch.testing.assert_close(value(outer.substitute(inner), Q), nested(Q), **EXACT)
    torch.testing.assert_close(value(outer.substitute(inner).derivative(), Q), ghr.derivative(nested, Q), **EXACT)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ghr.derivative(f, Q[:3]), "four floating-point numbers"),
        (lambda: ghr.derivative(lambda q: q[:2], Q), "must give a quaternion"),
        (lambda: ghr.derivative(f, Q, 0 * MU), "must not be 0"),
        (lambda: ghr.derivative(f, Q, side="up"), "side must be"),
        (lambda: ghr.partials(f, Q, step=0.0), "step must be"),
        (lambda: ghr.product_rule(lambda q: 0 * q, g, Q, side="right"), "must not be 0"),
        (lambda: (w * q)(q=Q), "give a value"),
        (lambda: constant("q"), "another name"),
        (lambda: q.derivative("q"), "must be a constant"),
        (lambda: q.derivative(side="up"), "side must be"),
    ],
)
def test_bad_input_is_told(call, says):
    with pytest.raises(UserError, match=says):
        call()

"""GHR derivatives of polynomials in a quaternion and its conjugate, as formulas.

A term of such a polynomial is a real number times a word: a product, in order, of the variable q, its conjugate q*, and
constants. Its left derivatives follow from four rules. With h the rest of the word behind a factor, the product rule
(arXiv 1409.8168) asks for (∂f/∂q^{hμ}) h of each factor f, and that is free of rotations:

    f = q:   (∂q/∂q^{hμ}) h  = ½ (h + μ* h* μ⁻¹),       (∂q/∂q^{hμ*}) h  = -½ μ* h* μ⁻¹
    f = q*:  (∂q*/∂q^{hμ}) h = -½ μ* h* μ⁻¹,            (∂q*/∂q^{hμ*}) h = ½ (h + μ* h* μ⁻¹)

A constant gives 0. Right derivatives are the same with the rest before the factor, and ½ (h + μ h* (μ⁻¹)*).

>>> q, w = variable(), constant("w")
>>> print((w * q).derivative(), "|", (q * w).derivative(), "|", (q * q.conjugate()).derivative(conjugated=True))
w | ½ w + ½ w* | ½ q
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from numbers import Rational
from typing import NamedTuple

import torch
from torch import Tensor

from beyondprop.errors import UserError
from beyondprop.layers.quaternion import algebra
from beyondprop.layers.quaternion.algebra import Side, hamilton


class Letter(NamedTuple):
    """A factor of a word.

    Attributes:
        name: Of the variable, "q", or of a constant.
        conjugated: Whether its conjugate stands there.
        inverted: Whether its inverse does.
    """

    name: str
    conjugated: bool = False
    inverted: bool = False

    def __str__(self) -> str:
        return self.name + "⁻¹" * self.inverted + "*" * self.conjugated


Word = tuple[Letter, ...]
VARIABLE = "q"


class Polynomial:
    """A sum of words with rational coefficients; `+`, `-`, `*` and `conjugate` give polynomials again.

    Args:
        terms: Coefficients by word; those of 0 are left out.
    """

    def __init__(self, terms: Mapping[Word, Fraction]) -> None:
        self.terms = {word: Fraction(c) for word, c in terms.items() if c}

    def __add__(self, other: Polynomial | Rational | int) -> Polynomial:
        terms = dict(self.terms)
        for word, c in _polynomial(other).terms.items():
            terms[word] = terms.get(word, Fraction(0)) + c
        return Polynomial(terms)

    __radd__ = __add__

    def __neg__(self) -> Polynomial:
        return Polynomial({word: -c for word, c in self.terms.items()})

    def __sub__(self, other: Polynomial | Rational | int) -> Polynomial:
        return self + -_polynomial(other)

    def __rsub__(self, other: Rational | int) -> Polynomial:
        return _polynomial(other) - self

    def __mul__(self, other: Polynomial | Rational | int) -> Polynomial:
        terms: dict[Word, Fraction] = {}
        for before, c in self.terms.items():
            for behind, d in _polynomial(other).terms.items():
                word = before + behind
                terms[word] = terms.get(word, Fraction(0)) + c * d
        return Polynomial(terms)

    def __rmul__(self, other: Rational | int) -> Polynomial:
        return _polynomial(other) * self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rational):
            other = _polynomial(other)
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def conjugate(self) -> Polynomial:
        """The conjugate: words read backwards, each factor conjugated."""
        return Polynomial(
            {tuple(s._replace(conjugated=not s.conjugated) for s in word[::-1]): c for word, c in self.terms.items()}
        )

    def substitute(self, inner: Polynomial) -> Polynomial:
        """The polynomial of another one in the place of q."""
        total = Polynomial({})
        for word, c in self.terms.items():
            product = _polynomial(c)
            for s in word:
                found = Polynomial({(s,): Fraction(1)})
                if s.name == VARIABLE:
                    found = inner.conjugate() if s.conjugated else inner
                product = product * found
            total = total + product
        return total

    def derivative(self, mu: str | None = None, *, conjugated: bool = False, side: Side = "left") -> Polynomial:
        """The GHR derivative ∂f/∂q^μ, or ∂f/∂q^μ*.

        Args:
            mu: Name of the constant μ; 1 where it is None.
            conjugated: Whether by the conjugate.
            side: "left" or "right".

        Raises:
            UserError: The side is unknown, or μ has the variable's name.
        """
        if side not in ("left", "right"):
            raise UserError(f"side must be 'left' or 'right', not {side!r}")
        if mu == VARIABLE:
            raise UserError(f"μ must be a constant, and {VARIABLE!r} is the variable")
        total = Polynomial({})
        for word, c in self.terms.items():
            for place, s in enumerate(word):
                if s.name != VARIABLE:
                    continue
                before = Polynomial({word[:place]: c})
                behind = Polynomial({word[place + 1 :]: Fraction(1)})
                rest = behind if side == "left" else before
                turned = Fraction(1, 2) * _turned(rest, mu, side)
                own = Fraction(1, 2) * rest + turned if s.conjugated == conjugated else -turned
                total = total + (before * own if side == "left" else own * behind)
        return total

    def __call__(self, **values: Tensor) -> Tensor:
        """The value for given quaternions.

        Args:
            **values: By name, "q" and the constants, each of shape (..., 4).

        Raises:
            UserError: One is missing.
        """
        names = {s.name for word in self.terms for s in word}
        if missing := sorted(names - values.keys()):
            raise UserError(f"the polynomial has {', '.join(missing)}: give a value for each")
        like = next(iter(values.values()))
        one = torch.zeros(4, dtype=like.dtype, device=like.device)
        one[0] = 1.0
        total = torch.zeros_like(one)
        for word, c in self.terms.items():
            product = one
            for s in word:
                factor = algebra.inverse(values[s.name]) if s.inverted else values[s.name]
                product = hamilton(product, algebra.conjugate(factor) if s.conjugated else factor)
            total = total + float(c) * product
        return total

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        parts = []
        for word, c in sorted(self.terms.items(), key=lambda term: (len(term[0]), term[0])):
            size = {Fraction(1, 2): "½", Fraction(1, 4): "¼"}.get(abs(c), str(abs(c)))
            shown = " ".join([size] * (abs(c) != 1 or not word) + [str(s) for s in word])
            parts.append(("- " if c < 0 else "+ ") + shown)
        return " ".join(parts).removeprefix("+ ").replace("- ", "-", 1 if parts[0].startswith("-") else 0)

    __repr__ = __str__


def variable() -> Polynomial:
    """The variable q."""
    return Polynomial({(Letter(VARIABLE),): Fraction(1)})


def constant(name: str) -> Polynomial:
    """A constant quaternion.

    Raises:
        UserError: The name is the variable's.
    """
    if name == VARIABLE:
        raise UserError(f"{VARIABLE!r} is the variable: give the constant another name")
    return Polynomial({(Letter(name),): Fraction(1)})


def _turned(rest: Polynomial, mu: str | None, side: Side) -> Polynomial:
    """μ* h* μ⁻¹ of left derivatives, μ h* (μ⁻¹)* of right ones."""
    if mu is None:
        return rest.conjugate()
    first, last = Letter(mu, side == "left"), Letter(mu, side == "right", True)
    return Polynomial({(first,): Fraction(1)}) * rest.conjugate() * Polynomial({(last,): Fraction(1)})


def _polynomial(value: Polynomial | Rational | int | Fraction) -> Polynomial:
    return value if isinstance(value, Polynomial) else Polynomial({(): Fraction(value)})

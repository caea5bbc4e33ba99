"""Planted defects of rules that step by what changes in a layer's outputs: consequential, proximal, semi-implicit."""

from mutant import Mutant, tests_named

SIGNALS = "rules/signals"
CONSEQUENTIAL = tests_named("test_consequential*")
PROXPROP = ("tests/rules/signals/test_proxprop.py",)
SEMI_IMPLICIT = ("tests/rules/signals/test_semi_implicit.py",)

MUTANTS = (
    Mutant(
        "bpc: errors of the mean, not of each sample",
        f"{SIGNALS}/consequential.py",
        "delta = terms * delta",
        "",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: patches are not dilated",
        f"{SIGNALS}/affine.py",
        "[..., ::dilation]",
        "[..., :size]",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: groups of a convolution in the wrong order",
        f"{SIGNALS}/affine.py",
        "x.unflatten(1, (layer.groups, -1)).transpose(0, 1)",
        "x.unflatten(1, (-1, layer.groups)).transpose(1, 2).transpose(0, 1)",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: the bias is left out of an input's length",
        f"{SIGNALS}/consequential.py",
        "rows.square().sum(dim=2, keepdim=True)",
        "rows[..., :-1].square().sum(dim=2, keepdim=True)",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: the normalised form adds up over the batch",
        f"{SIGNALS}/consequential.py",
        ".mT @ rows / rows.shape[1]",
        ".mT @ rows",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: linear algebra in bfloat16",
        f"{SIGNALS}/consequential.py",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type))",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: only the last evaluation of a layer counts",
        f"{SIGNALS}/consequential.py",
        "for i in places if",
        "for i in places[-1:] if",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: a layer used by its weight alone never learns",
        f"{SIGNALS}/consequential.py",
        "others = self._others(layers)",
        "others = self._others(self._layers.values())",
        CONSEQUENTIAL,
    ),
    Mutant(
        "proxprop: tau upside down",
        f"{SIGNALS}/proxprop.py",
        "Ridge(rows, 1 / self.tau)",
        "Ridge(rows, self.tau)",
        PROXPROP,
    ),
    Mutant(
        "proxprop: conjugate gradients without the proximal term",
        f"{SIGNALS}/affine.py",
        "(direction @ rows.mT) @ rows + regularisation * direction",
        "(direction @ rows.mT) @ rows",
        PROXPROP,
    ),
    Mutant(
        "proxprop: conjugate gradients are steepest descent",
        f"{SIGNALS}/affine.py",
        "direction = residual + _ratio(size, former) * direction",
        "direction = residual",
        PROXPROP,
    ),
    Mutant(
        "proxprop: one step for all outputs",
        f"{SIGNALS}/affine.py",
        "alpha = _ratio(size, (direction * image).sum(dim=-1, keepdim=True))",
        "alpha = _ratio(size.sum(), (direction * image).sum())",
        PROXPROP,
    ),
    Mutant(
        "semi-implicit: neurons follow the old weights",
        f"{SIGNALS}/semi_implicit.py",
        "weight, _ = _stepped(self.unit.layer, steps)",
        "weight = _weight(self.unit.layer).detach()",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: the step is taken again at every layer",
        f"{SIGNALS}/semi_implicit.py",
        "difference = evaluation.passed_down(signal, taken)",
        "difference = self.step * evaluation.passed_down(signal, taken)",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: further solves forget the change so far",
        f"{SIGNALS}/semi_implicit.py",
        "output_rows(layer, signal) + ridge.rows @ change.mT",
        "output_rows(layer, signal)",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: further solves lead up",
        f"{SIGNALS}/semi_implicit.py",
        "if value < best:",
        "if True:",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: another dropout mask in every solve",
        f"{SIGNALS}/semi_implicit.py",
        "self._state.restore()",
        "pass",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: statistics move in every solve",
        f"{SIGNALS}/semi_implicit.py",
        ", buffers_kept(*modules):",
        ":",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: norms step by lambda alone",
        f"{SIGNALS}/semi_implicit.py",
        "weight = self.regularisation + at.rows",
        "weight = self.regularisation",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: norms step by their rows alone",
        f"{SIGNALS}/semi_implicit.py",
        "weight = self.regularisation + at.rows",
        "weight = at.rows",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: the batch's length for a tagger",
        f"{SIGNALS}/semi_implicit.py",
        "count_terms(self.terms, self.loss, scores, y)",
        "len(x)",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: a loss's parameters never learn",
        f"{SIGNALS}/semi_implicit.py",
        "own = self.loss_parameters()",
        "own: list[nn.Parameter] = []",
        CONSEQUENTIAL,
    ),
    Mutant(
        "outputwise: a loss's parameters never learn",
        f"{SIGNALS}/consequential.py",
        "[p for p in self.parameters() if p.requires_grad and id(p) not in theirs]",
        "[p for p in self.network.parameters() if p.requires_grad and id(p) not in theirs]",
        CONSEQUENTIAL,
    ),
    Mutant(
        "outputwise: an input changed in place is taken as it is",
        f"{SIGNALS}/consequential.py",
        "        _refuse_changed(passes)\n",
        "",
        CONSEQUENTIAL,
    ),
)

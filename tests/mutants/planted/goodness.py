"""Planted defects of Forward-Forward, SymBa and the layers that they are trained with."""

from mutant import Mutant, tests_named

LOCAL = "rules/local"
FF = tests_named("test_forward_forward*")
FF_TRAINING = ("tests/rules/local/test_forward_forward_training.py",)
CONNECTED = ("tests/layers/test_locally_connected.py",)

MUTANTS = (
    Mutant(
        "ff: sign of the positive pass",
        f"{LOCAL}/forward_forward.py",
        "pull, push = (threshold - positive)",
        "pull, push = (positive - threshold)",
        FF,
    ),
    Mutant(
        "ff: no threshold on the negative pass",
        f"{LOCAL}/forward_forward.py",
        "(negative - threshold).clamp",
        "negative.clamp",
        FF,
    ),
    Mutant(
        "ff: the true class drawn as a wrong one",
        f"{LOCAL}/forward_forward.py",
        "torch.randint_like(y, 1, self.classes)",
        "torch.randint_like(y, 0, self.classes)",
        FF,
    ),
    Mutant(
        "ff: hard negatives without the root",
        f"{LOCAL}/forward_forward.py",
        "likely = goodness.sqrt() + 1e-12",
        "likely = goodness + 1e-12",
        FF,
    ),
    Mutant(
        "ff: threshold not scaled with the width",
        f"{LOCAL}/forward_forward.py",
        '(self.shapes[k].numel() if self.goodness == "sum" else 1)',
        "1",
        FF,
    ),
    Mutant(
        "ff: peer average never moves",
        f"{LOCAL}/forward_forward.py",
        "        average.copy_(present.detach())\n",
        "        pass\n",
        FF,
    ),
    Mutant(
        "symba: scale forgotten",
        f"{LOCAL}/symba.py",
        "wrong = self.alpha * (negative - positive)",
        "wrong = negative - positive",
        FF,
    ),
    Mutant(
        "symba: sign",
        f"{LOCAL}/symba.py",
        "self.alpha * (negative - positive)",
        "self.alpha * (positive - negative)",
        FF,
    ),
    Mutant(
        "overlay: old pixels stay",
        f"{LOCAL}/label_input.py",
        "marked = self._replaced(x, 0.0)",
        "marked = x.clone()",
        FF,
    ),
    Mutant(
        "ff: the readout moves statistics",
        "rules/local/forward_forward.py",
        "            with finished(self):\n                outputs",
        "            with torch.no_grad():\n                outputs",
        FF,
    ),
    Mutant(
        "ff: hard negatives may be the true class",
        "rules/local/forward_forward.py",
        "likely.scatter(1, y[:, None], 0.0)",
        "likely",
        FF,
    ),
    Mutant(
        "symba: the first block does not count", "rules/local/symba.py", '"skip_first": False', '"skip_first": True', FF
    ),
    Mutant(
        "ff: learned patterns are in no group",
        f"{LOCAL}/forward_forward.py",
        '"label": self.label, ',
        "",
        FF_TRAINING,
    ),
    Mutant(
        "ff: the readout is in no group",
        f"{LOCAL}/forward_forward.py",
        ', "readout": self.classifier}',
        "}",
        FF_TRAINING,
    ),
    Mutant(
        "ff: peer normalisation is not differentiated",
        f"{LOCAL}/forward_forward.py",
        "0.9 * average + 0.1 * activity",
        "0.9 * average + 0.1 * activity.detach()",
        FF_TRAINING,
    ),
    Mutant(
        "ff: peer normalisation forgets",
        f"{LOCAL}/forward_forward.py",
        "0.9 * average + 0.1 * activity",
        "0.1 * activity",
        FF_TRAINING,
    ),
    Mutant(
        "ff: the readout sees class 0",
        f"{LOCAL}/forward_forward.py",
        "self._outputs(self.direction(self.label.neutral(x)))",
        "self._outputs(self.direction(self.label(x, torch.zeros(len(x), dtype=torch.long))))",
        FF_TRAINING,
    ),
    Mutant(
        "ff: goodness in bfloat16",
        f"{LOCAL}/forward_forward.py",
        "dtype=torch.promote_types(h.dtype, torch.float32)",
        "dtype=h.dtype",
        FF_TRAINING,
    ),
    Mutant(
        "ff: one product serves layers with hooks",
        f"{LOCAL}/forward_forward.py",
        "not child._forward_hooks and not child._forward_pre_hooks",
        "not child._forward_hooks",
        FF_TRAINING,
    ),
    Mutant(
        "ff: one product serves any linear layer",
        f"{LOCAL}/forward_forward.py",
        "type(child) is nn.Linear and",
        "isinstance(child, nn.Linear) and",
        FF_TRAINING,
    ),
    Mutant(
        "ff: one product serves any overlay",
        f"{LOCAL}/forward_forward.py",
        "self.blocks[0] if type(self.label) is Overlay",
        "self.blocks[0] if isinstance(self.label, Overlay)",
        FF_TRAINING,
    ),
    Mutant(
        "ff: any bounded activation of a block counts",
        f"{LOCAL}/forward_forward.py",
        "if last and isinstance(last[-1], BOUNDED)",
        "if any(isinstance(m, BOUNDED) for m in last)",
        FF_TRAINING,
    ),
    Mutant(
        "ff: a scan has no bound",
        f"{LOCAL}/forward_forward.py",
        "min(SCANNED, SCANNED_NUMBERS // largest)",
        "SCANNED",
        FF_TRAINING,
    ),
    Mutant(
        "ff: columns are lost without a word",
        f"{LOCAL}/forward_forward.py",
        "if type(self.label) is Overlay and x.ndim == 2 and",
        "if type(self.label) is Overlay and x.ndim == 3 and",
        FF_TRAINING,
    ),
    Mutant(
        "locally connected: biases of any size",
        "layers/locally_connected.py",
        "nn.init.uniform_(self.bias, -bound, bound)",
        "nn.init.uniform_(self.bias)",
        CONNECTED,
    ),
    Mutant(
        "locally connected: even fields are taken",
        "layers/locally_connected.py",
        "if field % 2 == 0:",
        "if field == 0:",
        CONNECTED,
    ),
    Mutant(
        "locally connected: images of any order of dimensions",
        "layers/locally_connected.py",
        "if x.shape[1:] != self.image:",
        "if x[0].numel() != math.prod(self.image):",
        CONNECTED,
    ),
    Mutant(
        "patterns: neutral is the first class",
        f"{LOCAL}/label_input.py",
        "self.patterns.mean(dim=0)",
        "self.patterns[0]",
        FF,
    ),
)

"""Planted defects of networks and layers."""

from mutant import NOPROP_TESTS, Mutant, tests_named

FIELDS = ("tests/layers/test_locally_connected.py",)
POPULATION = ("tests/networks/test_networks_population.py",)
LOCAL_FORWARD_GRADIENT = tests_named("test_local_forward_gradient_*")
NORMED_LINEAR = ("tests/layers/test_normed_linear.py",)
GROUPED_LINEAR = ("tests/layers/test_grouped_linear.py",)
LOCAL_MIXER = ("tests/networks/test_networks_local_mixer.py",)
LAYERS = ("tests/layers",)

MUTANTS = (
    Mutant(
        "population: copies stay in training mode",
        "networks/population.py",
        "self._skeleton[0].train(self.training)",
        "self._skeleton[0]",
        ("tests/networks/test_networks_population.py",),
    ),
    Mutant("chain baseline: shares swapped", "networks/noprop.py", "z = (1 - a) * z + a *", "z = a * z + (1 - a) *"),
    Mutant("dropout: scale forgotten", "layers/dropout.py", ".mul_(_LEVELS / (_LEVELS - cut))", "", LAYERS),
    Mutant("dropout: keeps what it should drop", "layers/dropout.py", ">= cut -", "< cut -", LAYERS),
    Mutant(
        "dropout: gradient of dropped values",
        "layers/dropout.py",
        "return input * _mask(input, cut)",
        "return input * _mask(input, cut) + 0.1 * (input - input.detach())",
        LAYERS,
    ),
    Mutant(
        "residual: no skip",
        "networks/residual.py",
        "torch.relu(h + self.change(h))",
        "torch.relu(self.change(h))",
        NOPROP_TESTS,
    ),
    Mutant(
        "residual: branch starts at random",
        "networks/residual.py",
        "        nn.init.zeros_(last.weight)\n",
        "",
        NOPROP_TESTS,
    ),
    Mutant(
        "local fields: inputs in another order",
        "layers/locally_connected.py",
        "dense[:, self.rows, self.columns]",
        "dense[:, self.rows, self.columns.flip(0)]",
        FIELDS,
    ),
    Mutant(
        "local fields: bound without channels",
        "layers/locally_connected.py",
        "bound = 1 / math.sqrt(self.image[0] * self.field**2)",
        "bound = 1 / math.sqrt(self.field**2)",
        FIELDS,
    ),
    Mutant(
        "population: all copies are the first",
        "networks/population.py",
        "networks = [make() for _ in range(count)]",
        "networks = [make()] * count",
        POPULATION,
    ),
    Mutant(
        "local mixer: noise where the ReLU is off",
        "networks/local_mixer.py",
        "return call.gradients(_switch_off(noise, h))",
        "return call.gradients(noise)",
        LOCAL_FORWARD_GRADIENT,
    ),
    Mutant(
        "local mixer: tangents pass where the ReLU is off",
        "networks/local_mixer.py",
        "                _switch_off(dh, h)",
        "                pass",
        LOCAL_FORWARD_GRADIENT,
    ),
    Mutant(
        "local mixer: a token's noise meets one group's loss alone",
        "networks/local_mixer.py",
        '    if call.layer.reach == "patch":\n        change = change.sum(dim=2, keepdim=True)',
        "    pass",
        LOCAL_FORWARD_GRADIENT,
    ),
    Mutant(
        "local mixer: weights learn from all groups",
        "networks/local_mixer.py",
        "    change = change.sum(dim=(0, 1))",
        "    change = change.sum()[None]",
        LOCAL_FORWARD_GRADIENT,
    ),
    Mutant(
        "local mixer: nothing is added to the last layer",
        "networks/local_mixer.py",
        "                h += x",
        "                pass",
        LOCAL_FORWARD_GRADIENT,
    ),
    Mutant(
        "local mixer: what is added brings no tangent",
        "networks/local_mixer.py",
        "dx.clone() if dh is None else dh.add_(dx)",
        "dx.clone() if dh is None else dh",
        LOCAL_FORWARD_GRADIENT,
    ),
    Mutant(
        "local mixer: patches are cut across",
        "networks/local_mixer.py",
        "cut.permute(0, 2, 4, 1, 3, 5)",
        "cut.permute(0, 3, 4, 1, 2, 5)",
        LOCAL_MIXER,
    ),
    Mutant(
        "local mixer: the readout does not begin at zero",
        "networks/local_mixer.py",
        ' or name == "readout.weight"',
        "",
        LOCAL_MIXER,
    ),
    Mutant(
        "normed linear: the norm before the layer passes tangents as they are",
        "layers/normed_linear.py",
        "da = None if dx is None else before.derivative(dx)",
        "da = dx",
        NORMED_LINEAR,
    ),
    Mutant(
        "normed linear: the bias has no tangent",
        "layers/normed_linear.py",
        "self.product(a, directions[0]) + directions[1]",
        "self.product(a, directions[0])",
        NORMED_LINEAR,
    ),
    Mutant(
        "normed linear: the bias learns from the mean",
        "layers/normed_linear.py",
        "yield linear.bias, dy.sum(dim=(0, 1))",
        "yield linear.bias, dy.mean(dim=(0, 1))",
        NORMED_LINEAR,
    ),
    Mutant(
        "grouped linear: groups see each other's weights transposed",
        "layers/grouped_linear.py",
        "self._by_group(signal).mT @ self._by_group(x)",
        "self._by_group(signal).mT @ self._by_group(x).flip(0)",
        GROUPED_LINEAR,
    ),
)

"""Planted defects of rules that send teaching signals."""

from mutant import Mutant, tests_named

SIGNALS = "rules/signals"
BATTERY = ("tests/test_battery.py",)
LAYERS = ("tests/rules/signals/test_layers.py",)
CHAINED = ("tests/rules/signals/test_feedback_alignment.py",)
DIRECT = tests_named("test_direct_feedback*")
TARGET = ("tests/rules/signals/test_target_projection.py",)
FEEDBACK = ("tests/rules/signals/test_feedback.py",)
CENTRED = ("tests/rules/signals/test_centred_signs.py",)

SPIKE_TIMING = ("tests/rules/signals/test_spike_timing.py",)

MUTANTS = (
    Mutant(
        "direct Kolen-Pollack: features of several dimensions are taken for steps",
        f"{SIGNALS}/direct_feedback.py",
        "value.flatten(0, error.ndim - 2)",
        "value.flatten(0, -2)",
        DIRECT,
    ),
    Mutant(
        "Kolen-Pollack: feedback of weights that are no parameters never learns",
        f"{SIGNALS}/feedback_alignment.py",
        'if layer._parameters.get("weight") is None]',
        "if False]",
        tests_named("test_feedback_alignment*"),
    ),
    Mutant(
        "spike timing: first spikes are counted, counts are raced",
        "rules/signals/spike_timing.py",
        "loss or (SpikeCountLoss() if counts else FirstSpikeLoss())",
        "loss or (FirstSpikeLoss() if counts else SpikeCountLoss())",
        SPIKE_TIMING,
    ),
    Mutant(
        "spike timing: a hidden layer is left out",
        "rules/signals/spike_timing.py",
        "for layer in linear[:-1]]",
        "for layer in linear[:-2]]",
        SPIKE_TIMING,
    ),
    Mutant(
        "spike timing: the input's window is always the same",
        "rules/signals/spike_timing.py",
        "LatencyEncoder(window,",
        "LatencyEncoder(2.0,",
        SPIKE_TIMING,
    ),
    Mutant(
        "backprop: sign turned",
        f"{SIGNALS}/backprop.py",
        "        loss.backward()",
        "        (-loss).backward()",
        ("tests/rules/signals",),
    ),
    Mutant(
        "backprop: gradients replaced, not added",
        f"{SIGNALS}/backprop.py",
        "        loss.backward()",
        "        self.zero_grad()\n        loss.backward()",
        BATTERY,
    ),
    Mutant(
        "signals: a layer passes nothing on",
        f"{SIGNALS}/chained.py",
        "return list(torch.autograd.grad(edges, call.inputs, values, retain_graph=True, allow_unused=True))",
        "return [None for _ in call.inputs]",
        LAYERS,
    ),
    Mutant(
        "signals: norms are cut off as layers are",
        f"{SIGNALS}/layers.py",
        "nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)",
        "nn.GroupNorm, nn.RMSNorm, nn.PReLU)",
        LAYERS,
    ),
    Mutant(
        "signals: one tensor given thrice is cut thrice",
        f"{SIGNALS}/layers.py",
        "if before is tensor:",
        "if False:",
        LAYERS,
    ),
    Mutant(
        "fa: transposed by the forward weight",
        f"{SIGNALS}/feedback_alignment.py",
        "        del weight\n        return self.feedback[name]\n",
        "        return weight\n",
        CHAINED,
    ),
    Mutant(
        "fa: wrong sign",
        f"{SIGNALS}/feedback_alignment.py",
        "return [transposed(call.layer, weight, signal, given.shape).to(given.dtype)]",
        "return [-transposed(call.layer, weight, signal, given.shape).to(given.dtype)]",
        CHAINED,
    ),
    Mutant(
        "fa: dilation forgotten in the adjoint",
        f"{SIGNALS}/feedback_alignment.py",
        "        layer.dilation,\n        False,",
        "        [1] * len(layer.dilation),\n        False,",
        CHAINED,
    ),
    Mutant(
        "sign-symmetry: signs of the first weights for good",
        f"{SIGNALS}/feedback_alignment.py",
        "return weight.sign().mul_(self.feedback[name])",
        "return self.feedback[name].expand_as(weight)",
        CHAINED,
    ),
    Mutant(
        "kolen-pollack: feedback against the gradient",
        f"{SIGNALS}/feedback_alignment.py",
        "add_gradient(self.feedback[name], weight.grad.clone())",
        "add_gradient(self.feedback[name], -weight.grad)",
        CHAINED,
    ),
    Mutant(
        "dfa: signals pass along skip connections",
        f"{SIGNALS}/direct.py",
        "        self._seen |= passed\n",
        "",
        DIRECT,
    ),
    Mutant(
        "dfa: an output inside another counts twice",
        f"{SIGNALS}/direct.py",
        "if len(outputs) > 1:",
        "if len(outputs) > 99:",
        DIRECT,
    ),
    Mutant(
        "dfa: the output's own activation is hidden",
        f"{SIGNALS}/direct.py",
        "        if own:\n",
        "        if False:\n",
        DIRECT,
    ),
    Mutant(
        "sdfa: summed over the batch",
        f"{SIGNALS}/direct_feedback.py",
        "return sign / error[..., 0].numel()",
        "return sign",
        DIRECT,
    ),
    Mutant(
        "dkp: feedback against the gradient",
        f"{SIGNALS}/direct_feedback.py",
        "(error.t() @ value",
        "(-error.t() @ value",
        DIRECT,
    ),
    Mutant(
        "drtp: summed over the batch",
        f"{SIGNALS}/target_projection.py",
        "return projection.div_(count)",
        "return projection",
        TARGET,
    ),
    Mutant(
        "tpsgd: away from the target",
        f"{SIGNALS}/target_projection.py",
        '"l2": lambda value, target: target.sub_(value)',
        '"l2": lambda value, target: value - target',
        TARGET,
    ),
    Mutant(
        "tpsgd: linear loss with the wrong sign",
        f"{SIGNALS}/target_projection.py",
        '"linear": lambda _value, target: target',
        '"linear": lambda _value, target: -target',
        TARGET,
    ),
    Mutant(
        "tpsgd: targets out of reach",
        f"{SIGNALS}/target_projection.py",
        "(nn.ReLU, nn.ReLU6, nn.Softplus): (0.0, 1.0)",
        "(nn.ReLU, nn.ReLU6, nn.Softplus): (-1.0, 1.0)",
        TARGET,
    ),
    Mutant(
        "centred signs: mean over the batch",
        f"{SIGNALS}/direct_feedback.py",
        "sign.mean(dim=-1, keepdim=True)",
        "sign.mean(dim=0, keepdim=True)",
        CENTRED,
    ),
    Mutant(
        "feedback: half the variance",
        f"{SIGNALS}/feedback.py",
        "math.sqrt(6 /",
        "math.sqrt(3 /",
        FEEDBACK,
    ),
    Mutant(
        "feedback: fan_in over all dimensions",
        f"{SIGNALS}/feedback.py",
        "math.prod(shape[1:])",
        "math.prod(shape)",
        FEEDBACK,
    ),
)

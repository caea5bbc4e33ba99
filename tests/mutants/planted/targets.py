"""Planted defects of mirrors, and of what stands around recurrent layers with targets."""

from mutant import Mutant

SIGNALS = "rules/signals"
MIRRORS = ("tests/rules/signals/test_mirrors.py",)
RECURRENT = ("tests/rules/signals/test_recurrent_targets.py",)

MUTANTS = (
    Mutant("mirrors: windows overwrite each other", f"{SIGNALS}/mirrors.py", ".scatter_add(2", ".scatter(2", MIRRORS),
    Mutant("mirrors: dropped units get credit", f"{SIGNALS}/mirrors.py", '"dropout": (_DropoutNd,),', "", MIRRORS),
    Mutant(
        "mirrors: means come back smaller", f"{SIGNALS}/mirrors.py", "(below[0].numel() / y[0].numel())", "1", MIRRORS
    ),
    Mutant("mirrors: means pass no gradient on", f"{SIGNALS}/mirrors.py", "create_graph=y.requires_grad", "", MIRRORS),
    Mutant(
        "mirrors: an activation behind which a norm stands",
        f"{SIGNALS}/mirrors.py",
        "            break\n    return nn.Identity()",
        "            continue\n    return nn.Identity()",
        MIRRORS,
    ),
    Mutant(
        "targets: perturbed beside bfloat16",
        f"{SIGNALS}/target_propagation.py",
        "with full_precision(x) if self.learning() else nullcontext():",
        "with nullcontext():",
        MIRRORS,
    ),
    Mutant(
        "l-drl: feedback moves statistics",
        f"{SIGNALS}/l_drl.py",
        "self.chain.run(x, training=False)",
        "self.chain.run(x)",
        MIRRORS,
    ),
    Mutant(
        "l-drl: an evaluation outlives a changed weight",
        f"{SIGNALS}/l_drl.py",
        "[(id(tensor), tensor._version) for tensor in held]",
        "[(id(tensor), 0) for tensor in held]",
        MIRRORS,
    ),
    Mutant(
        "l-drl: an evaluation outlives its mode",
        f"{SIGNALS}/l_drl.py",
        "(id(module), module.training)",
        "(id(module), True)",
        MIRRORS,
    ),
    Mutant(
        "recurrent targets: embeddings learn g times too slowly",
        f"{SIGNALS}/recurrent_targets.py",
        "return inputs / self.target_step, ",
        "return inputs, ",
        RECURRENT,
    ),
    Mutant(
        "recurrent targets: first states learn g times too slowly",
        f"{SIGNALS}/recurrent_targets.py",
        "torch.stack(first) / self.target_step",
        "torch.stack(first)",
        RECURRENT,
    ),
    Mutant(
        "recurrent targets: last states of lower layers are forgotten",
        f"{SIGNALS}/recurrent_targets.py",
        "if last is not None:",
        "if last is not None and number == len(layers) - 1:",
        RECURRENT,
    ),
    Mutant(
        "time recursion: a first state that is kept gets nothing",
        f"{SIGNALS}/time_recursion.py",
        "        first = first + errors[0] * linear.keep[0]\n",
        "        pass\n",
        RECURRENT,
    ),
    Mutant(
        "tptt: the inverse moves statistics",
        f"{SIGNALS}/learned_inversion.py",
        "as runs, without_trace(self.network):",
        "as runs, torch.no_grad():",
        RECURRENT,
    ),
    Mutant(
        "tp-ri: difference targets are clipped as linearised ones",
        f"{SIGNALS}/regularized_inversion.py",
        'if clip is None and targets == "linearised" and',
        "if clip is None and",
        RECURRENT,
    ),
    Mutant(
        "tp-ri: no bound without regularisation",
        f"{SIGNALS}/regularized_inversion.py",
        "if regularisation else STEEPEST",
        "if regularisation else 0.002",
        RECURRENT,
    ),
)

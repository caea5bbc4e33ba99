"""Planted defects of what every rule promises: its loss, its gradients, its terms and its errors."""

from mutant import NOPROP_TESTS, Mutant, tests_named

BATTERY = ("tests/test_battery.py",)
CLASSIFIER = (*BATTERY, "-k", "cannot_be")
CONSEQUENTIAL = tests_named("test_consequential*")
CAFO = ("tests/rules/local/test_cascaded_forward.py",)

MUTANTS = (
    Mutant(
        "training: sign turned",
        "rule.py",
        "        loss.backward()\n        torch.clear",
        "        (-loss).backward()\n        torch.clear",
        (*NOPROP_TESTS, *BATTERY),
    ),
    Mutant("contract: graph kept in the loss", "rule.py", "phase).detach()", "phase)", BATTERY),
    Mutant(
        "contract: casts of before a step",
        "rule.py",
        "        torch.clear_autocast_cache()  # of weights before",
        "        pass  # of weights before",
        BATTERY,
    ),
    Mutant(
        "contract: sets the gradient",
        "rule.py",
        "gradient if parameter.grad is None else parameter.grad + gradient",
        "gradient",
        CAFO,
    ),
    Mutant("contract: any classifier will do", "rule.py", "        check_what_is_given(cls)\n", "", CLASSIFIER),
    Mutant("contract: any number of classes", "inputs.py", "    check_whole(1, classes=classes)\n", "", CLASSIFIER),
    Mutant("labels: bytes taken for a mask", "rule.py", "return y.long()", "return y"),
    Mutant(
        "terms: the batch's length for a tagger",
        "rules/network_rule.py",
        "if y.is_floating_point() or y.shape == scores.shape:",
        "if True:",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: labels of the scores' shape are counted one by one",
        "rules/network_rule.py",
        "if y.is_floating_point() or y.shape == scores.shape:",
        "if y.is_floating_point():",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: padding is counted",
        "rules/network_rule.py",
        "y.numel() if ignored is None else (y != ignored).sum()",
        "y.numel()",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: a sum taken for a mean",
        "rules/network_rule.py",
        'getattr(loss, "reduction", "mean") == "sum"',
        "False",
        CONSEQUENTIAL,
    ),
    Mutant(
        "vmap: every error of torch is called its own",
        "rule.py",
        "if not is_of_vmap(error):",
        "if False:",
        ("tests/rules/perturbation/test_multiplexed.py", "-k", "not_vmaps"),
    ),
    Mutant(
        "vmap: its missing rules are torch's own error",
        "rule.py",
        '"batching rule", ',
        "",
        ("tests/rules/perturbation/test_multiplexed.py", "-k", "way_out"),
    ),
)

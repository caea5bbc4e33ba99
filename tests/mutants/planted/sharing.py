"""Planted defects of what makes rules go into other hands: scikit-learn's estimators, exports, citations."""

from mutant import Mutant

ESTIMATORS = ("tests/estimators/test_rule_classifier.py", "-k", "not scikit_learns and not catalogue")
SOLVED = ("tests/estimators/test_solver_classifier.py", "-k", "not scikit_learns")
EXPORTED = ("tests/training/test_training_exported.py", "-k", "not every_recipe")
REBUILT = ("tests/training/test_training_exported.py", "-k", "every_recipe and (spike or noprop-dt or xor)")
DECIDED = ("tests/estimators/test_threshold_classifier.py",)
QUATERNION_RULE = ("tests/rules/signals/test_quaternion_rule.py",)
CARD = ("tests/report/test_model_card.py",)
COMMAND = ("tests/test_cli_export.py",)
CITED = ("tests/test_cli_cite.py",)
RULE, NETWORK, BASE = (f"estimators/{name}.py" for name in ("rule", "network", "base"))
THRESHOLD = "estimators/threshold.py"
EXPORT, READING = "export.py", "training/exported.py"

MUTANTS = (
    Mutant(
        "estimator: one split is held out, whatever the random state",
        "estimators/rule.py",
        "random_state=seed)",
        "random_state=0)",
        ("tests/estimators/test_rule_classifier.py",),
    ),
    Mutant(
        "estimator: predictions that draw are others each time",
        "estimators/network.py",
        "torch.manual_seed(0)  # for inference that draws",
        "pass",
        ("tests/estimators/test_rule_classifier.py",),
    ),
    Mutant(
        "export: a search's trial is told as a seed",
        "export.py",
        " or folder.name == TRIAL:",
        ":",
        ("tests/training/test_training_exported.py",),
    ),
    Mutant(
        "export: statistics that make no pixels pass",
        "training/exported.py",
        "isinstance(value, float) and math.isfinite(value)",
        "isinstance(value, float)",
        ("tests/training/test_training_exported.py",),
    ),
    Mutant(
        "report: tables of nothing take the place of those that are there",
        "cli/report.py",
        'if not any(given.source.results.glob("*/*.json")):',
        "if False:",
        ("tests/report/test_tables.py",),
    ),
    Mutant(
        "threshold estimator: predicted features keep their mean",
        THRESHOLD,
        "torch.tensor((checked - self.mean_) / self.scale_)",
        "torch.tensor(checked / self.scale_)",
        DECIDED,
    ),
    Mutant(
        "threshold estimator: divided by the variance",
        THRESHOLD,
        "X.std(axis=0)",
        "X.var(axis=0)",
        DECIDED,
    ),
    Mutant(
        "threshold estimator: two classes the other way round",
        THRESHOLD,
        "return outputs[:, 0]",
        "return -outputs[:, 0]",
        DECIDED,
    ),
    Mutant(
        "threshold estimator: the given weight decay has no effect",
        THRESHOLD,
        "beta=self.beta",
        "beta=1e-3",
        DECIDED,
    ),
    Mutant(
        "quaternion rule: the given loss has no effect",
        "rules/signals/quaternion.py",
        "to_quaternion(network).network, **options)",
        "to_quaternion(network).network)",
        QUATERNION_RULE,
    ),
    Mutant(
        "quaternion rule: the network stays real",
        "rules/signals/quaternion.py",
        "cls(to_quaternion(network).network, ",
        "cls(network, ",
        QUATERNION_RULE,
    ),
    Mutant(
        "quaternion rule: what cannot be converted is no reason",
        "rules/signals/quaternion.py",
        "return str(error)",
        "return None",
        QUATERNION_RULE,
    ),
    Mutant(
        "card: switches the other way round",
        "report/changes.py",
        'f"--{flag}" if value else f"--no-{flag}"',
        'f"--no-{flag}" if value else f"--{flag}"',
        CARD,
    ),
    Mutant(
        "card: flags of what was not changed",
        "report/changes.py",
        "as_json(v) != as_json(defaults[n])",
        "as_json(v) == as_json(defaults[n])",
        CARD,
    ),
    Mutant(
        "card: every seed has the first one's figures",
        "report/model_card.py",
        'in_figures(name, run["metrics"].get(name))',
        'in_figures(name, runs[0]["metrics"].get(name))',
        CARD,
    ),
    Mutant(
        "export: pixels on any scale are predicted",
        READING,
        "            self._refuse_other_range(given, data.high)\n",
        "",
        (*EXPORTED[:2], "scale"),
    ),
    Mutant(
        "estimator: one epoch whatever is asked",
        RULE,
        "self._train(batches, self.epochs, scheduler",
        "self._train(batches, 1, scheduler",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: partial_fit begins anew",
        RULE,
        "            if begun:\n                self._refuse_other_shape(X)",
        "            if False:\n                self._refuse_other_shape(X)",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: every partial_fit draws the same",
        RULE,
        "                RandomState(resolve_device(self.device), None).set(self._generators)\n",
        "",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: what is held out is trained on too",
        RULE,
        "X, held_out_x, labels, held_out_y = train_test_split(",
        "_, held_out_x, _, held_out_y = train_test_split(",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: the user's module is trained itself",
        NETWORK,
        "return copy.deepcopy(given)",
        "return given",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: the user's generators are moved",
        NETWORK,
        'with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):',
        "if True:",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: options are lost", NETWORK, "dict(self.options or {})", "dict()", (*ESTIMATORS[:1], "-k", "options")
    ),
    Mutant(
        "RuleClassifier: a network with other outputs is trained",
        NETWORK,
        "tuple(scores.shape) != expected",
        "tuple(scores.shape) == (0,)",
        (*ESTIMATORS[:1], "-k", "refuses_in_one_line"),
    ),
    Mutant(
        "estimator: odds upside down",
        BASE,
        "scores[:, 1] - scores[:, 0]",
        "scores[:, 0] - scores[:, 1]",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: labels in the order in which they come",
        BASE,
        "        self.classes_ = classes\n",
        "        self.classes_ = classes[::-1]\n",
        ESTIMATORS,
    ),
    Mutant(
        "estimator: a solver's samples are left out",
        "estimators/solver.py",
        "self._batches(X, self._indices(y), shuffle=False)",
        "self._batches(X[:100], self._indices(y)[:100], shuffle=False)",
        SOLVED,
    ),
    Mutant(
        "export: the weights are not put in",
        READING,
        "Checkpoint(0, dict(weights), {}).restore_model(run.rule)",
        "Checkpoint(0, run.rule.state_dict(), {}).restore_model(run.rule)",
        EXPORTED,
    ),
    Mutant(
        "export: the data's own statistics are not known",
        "data/statistics.py",
        "return cls(image_set.mean, image_set.std)",
        "pass",
        REBUILT,
    ),
    Mutant(
        "export: pixels are not scaled",
        READING,
        "given = replace(given, high=data.high if given.high else None)",
        "given = replace(given, high=None)",
        EXPORTED,
    ),
    Mutant(
        "export: no checksum",
        READING,
        'if hashlib.sha256(content).hexdigest() != about["weights"]["sha256"]:',
        "if False:",
        EXPORTED,
    ),
    Mutant("export: newer formats are read", READING, "if written > FORMAT:", "if False:", EXPORTED),
    Mutant(
        "export: settings may name files",
        READING,
        '    refuse_outside(path, about["settings"])\n    return about',
        "    return about",
        EXPORTED,
    ),
    Mutant("export: types of weights may change", READING, "built[name].dtype != tensor.dtype", "False", EXPORTED),
    Mutant(
        "export: the copy is not compared",
        EXPORT,
        "if not torch.equal(theirs, ours):",
        "if False:",
        EXPORTED,
    ),
    Mutant(
        "export: runs of other settings count as seeds",
        EXPORT,
        "if other is not None and told(settings) == told(stored):",
        "if other is not None:",
        EXPORTED,
    ),
    Mutant(
        "export: other people's files are overwritten",
        EXPORT,
        '    if others:\n        raise RunError(f"{target} holds',
        '    if False:\n        raise RunError(f"{target} holds',
        COMMAND,
    ),
    Mutant("export: an export gives way unasked", EXPORT, "if present and not overwrite:", "if False:", COMMAND),
    Mutant("cite: a paper for each rule", "cli/cite.py", "dict.fromkeys(", "list(", CITED),
)

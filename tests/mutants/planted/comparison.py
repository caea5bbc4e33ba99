"""Planted defects of comparing rules and of measuring their steps."""

from mutant import Mutant

COMPARED = ("tests/test_comparison.py",)
SEARCHED = (*COMPARED, "-k", "same_search")
MEASURED = ("tests/measure/test_step_costs.py",)

MUTANTS = (
    Mutant(
        "measure: CUDA's peak is that of everything before",
        "measure/memory.py",
        "    torch.cuda.reset_peak_memory_stats(device)\n",
        "",
        ("tests/measure/test_on_cuda.py",),
    ),
    Mutant(
        "measure: CUDA's step is not waited for",
        "measure/timing.py",
        "        step()\n        _synchronize(device)\n",
        "        step()\n",
        ("tests/measure/test_on_cuda.py",),
    ),
    Mutant(
        "compare: a step of the first stage alone",
        "comparison/costs.py",
        "            rule.stage = stage\n",
        "            pass\n",
        COMPARED,
    ),
    Mutant(
        "compare: the search judges by test accuracy",
        "comparison/tuning.py",
        'outcome.metrics["validation_accuracy"]',
        'outcome.metrics["test_accuracy"]',
        COMPARED,
    ),
    Mutant(
        "compare: the worst trial is chosen",
        "comparison/tuning.py",
        "best = max(known",
        "best = min(known",
        COMPARED,
    ),
    Mutant(
        "compare: images of one pass, however many stages",
        "comparison/compare.py",
        '"images": images * sum(epoch <= record["epoch"] for epoch in plan)',
        '"images": images',
        COMPARED,
    ),
    Mutant(
        "compare: one rule's failure ends all",
        "comparison/compare.py",
        "except (DataError, RunError):",
        "except UserError:",
        COMPARED,
    ),
    Mutant(
        "compare: trained as it was before the search",
        "comparison/compare.py",
        "settings, trials = tuned.settings, tuned.trials",
        "trials = tuned.trials",
        SEARCHED,
    ),
    Mutant(
        "compare: what was chosen is what was given",
        "comparison/compare.py",
        '"chosen": asdict(settings)',
        '"chosen": asdict(contender.settings)',
        SEARCHED,
    ),
    Mutant(
        "compare: the budget does not reach the search",
        "comparison/compare.py",
        "budget=self.budget,",
        "budget=self.budget - 1,",
        SEARCHED,
    ),
    Mutant(
        "compare: trials take as long as the training",
        "comparison/compare.py",
        "epochs=self.trial_epochs,",
        "epochs=None,",
        SEARCHED,
    ),
    Mutant(
        "compare: trained for the epochs of a trial",
        "comparison/tuning.py",
        "chosen = replace(settings, ",
        "chosen = replace(tried, ",
        SEARCHED,
    ),
    Mutant(
        "compare: memory without the optimizer's state",
        "comparison/costs.py",
        "peak_live_bytes(step, rule, optimizer)",
        "peak_live_bytes(step, rule)",
        (*COMPARED, "-k", "by_hand"),
    ),
    Mutant(
        "compare: seconds of one pass in a curve",
        "comparison/compare.py",
        '"seconds": record["seconds"]',
        '"seconds": record["seconds"] / record["epoch"]',
        (*COMPARED, "-k", "curves"),
    ),
    Mutant(
        "compare: a solver's point without its seconds",
        "comparison/compare.py",
        '"seconds": outcome.train_seconds,',
        '"seconds": 0.0,',
        (*COMPARED, "-k", "solvers_alone"),
    ),
    Mutant(
        "compare page: no trials",
        "report/comparison_page.py",
        'enumerate(each["trials"], start=1)',
        'enumerate(each["trials"][1:], start=1)',
        SEARCHED,
    ),
    Mutant(
        "compare page: steps were timed where was trained",
        "report/comparison_page.py",
        "surroundings_line(where)) for where in places",
        'surroundings_line(each["environment"])) for each in ()',
        (*COMPARED, "-k", "steps_were_timed"),
    ),
    Mutant(
        "provenance: a processor's number in place of its model",
        "training/provenance.py",
        'line.startswith("model name")',
        'line.startswith("processor")',
        ("tests/training/test_training_provenance.py",),
    ),
    Mutant(
        "compare: an error of Python's own ends all",
        "comparison/compare.py",
        "except Exception as error:",
        "except (UserError, RuntimeError) as error:",
        (*COMPARED, "-k", "whatever_ends"),
    ),
    Mutant(
        "compare: held-out images are trained on",
        "comparison/compare.py",
        "len(splits.train) - contender.settings.validation",
        "len(splits.train)",
        (*COMPARED, "-k", "curves_angles"),
    ),
    Mutant(
        "compare: no network of rules that name none",
        "comparison/compare.py",
        'getattr(built.rule, "network", built.rule)',
        'getattr(built.rule, "network", "")',
        (*COMPARED, "-k", "network_of_every_rule"),
    ),
    Mutant(
        "compare: rates of the digits on every data set",
        "recipes/compared.py",
        'for variant in (f"{dataset}-{network}", dataset, f"{dataset}-mlp", "digits", "digits-mlp"):',
        'for variant in ("digits", "digits-mlp"):',
        COMPARED,
    ),
    Mutant(
        "compare page: the worst rule first",
        "report/comparison_page.py",
        'key=lambda pair: -pair[1]["metrics"]',
        'key=lambda pair: pair[1]["metrics"]',
        COMPARED,
    ),
    Mutant(
        "step time: cold calls count", "measure/timing.py", "for _ in range(warmup):", "for _ in range(0):", MEASURED
    ),
    Mutant(
        "operations: only the first of a kind",
        "measure/operations.py",
        "self.total += formula(",
        "self.total = self.total or formula(",
        MEASURED,
    ),
)

"""Planted defects of the package's names and its command line."""

from mutant import Mutant

HOUSE = ("tests/test_house.py",)
COMMAND = ("tests/test_cli.py",)
TRAIN = ("tests/test_cli_train.py",)

MUTANTS = (
    Mutant(
        "package: a name leads to another module",
        "__init__.py",
        '"AsymmetricNetwork": "rules.relaxation.asymmetric"',
        '"AsymmetricNetwork": "rules.relaxation.convergent"',
        HOUSE,
    ),
    Mutant(
        "cli: large tensors in small pages",
        "cli/__init__.py",
        'os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")',
        "pass",
        (*COMMAND, "-k", "large"),
    ),
    Mutant(
        "examples: a solver with epochs",
        "cli/arguments.py",
        "if isinstance(recipe.settings, Settings) else",
        "if recipe else",
        COMMAND,
    ),
    Mutant(
        "command line: a recipe behind the flags is any argument too many",
        "cli/arguments.py",
        "if any(rest[words] == recipe.id",
        "if not any(rest[words] == recipe.id",
        ("tests/test_cli_errors.py",),
    ),
    Mutant(
        "command line: every command loads the recipes",
        "cli/arguments.py",
        "from beyondprop.checks import suggestion\n",
        "import beyondprop.catalogue\nfrom beyondprop.checks import suggestion\n",
        (*COMMAND, "-k", "without_the_recipes"),
    ),
    Mutant(
        "train: nothing says what is trained",
        "training/runs.py",
        "    if progress:\n        sys.stderr",
        "    if not progress:\n        sys.stderr",
        TRAIN,
    ),
    Mutant(
        "train: what is held out is told as trained on",
        "training/runs.py",
        '"training samples": len(built.splits.train),',
        '"training samples": len(built.splits.train) + len(built.validation or ()),',
        (*TRAIN, "-k", "told_first"),
    ),
    Mutant(
        "train: resuming nothing is told where there is a run",
        "cli/train.py",
        "if output.resume and not holds_run(folder):",
        "if output.resume:",
        (*TRAIN, "-k", "who_resumes"),
    ),
    Mutant(
        "command line: an accelerator without memory is a traceback",
        "cli/__init__.py",
        ' or "out of memory" in said',
        "",
        (*TRAIN, "-k", "too_little_memory"),
    ),
    Mutant(
        "command line: every error of torch is called a lack of memory",
        "cli/__init__.py",
        "        if not _out_of_memory(error):\n            raise\n",
        "",
        (*TRAIN, "-k", "other_errors"),
    ),
    Mutant(
        "evaluate: stored settings are taken as they are",
        "training/assembly.py",
        "        check_fields(restored)\n",
        "        pass\n",
        (*TRAIN, "-k", "damaged_settings"),
    ),
)

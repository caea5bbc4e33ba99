"""Planted defects of recipes, and of what they tell and keep."""

from mutant import Mutant

RECIPES = ("tests/recipes",)
SEQUENCES = ("tests/recipes/test_recipes_sequences.py",)
INVERSION = ("tests/recipes/test_recipes_regularized_inversion.py",)

MUTANTS = (
    Mutant(
        "recipe: head of the settings forgotten",
        "recipes/noprop/discrete.py",
        "        head=settings.head,\n",
        "",
        RECIPES,
    ),
    Mutant(
        "recipe: embedding of the settings forgotten",
        "recipes/backprop.py",
        "make_embedding(settings",
        "make_embedding(type(settings)(epochs=1)",
        RECIPES,
    ),
    Mutant(
        "recipes: always the paper's encoder",
        "recipes/noprop/blocks.py",
        'if settings.encoder == "residual":',
        "if False:",
        RECIPES,
    ),
    Mutant(
        "measures: blocks are given the chain",
        "recipes/noprop/discrete.py",
        "by_itself = rule.each_block_alone(x)",
        "by_itself = rule.run_chain(x)[1]",
        RECIPES,
    ),
    Mutant(
        "measures: the paper's way without noise",
        "recipes/noprop/discrete.py",
        "noise=True, start=",
        "noise=False, start=",
        RECIPES,
    ),
    Mutant(
        "student-teacher: NaN where there is no update",
        "recipes/student_teacher.py",
        "return sum(known) / len(known) if known else None",
        'return sum(known) / len(known) if known else float("nan")',
        ("tests/recipes/test_recipes_student_teacher.py",),
    ),
    Mutant(
        "text: a run forgets its file",
        "recipes/user_file.py",
        "return replace(self, file=str(path), sha256=sha256_of(path))",
        "return self",
        INVERSION,
    ),
    Mutant(
        "text: a sample forgets what was given but its last character",
        "networks/sequences.py",
        "given = torch.tensor([first if isinstance(first, Sequence) else [first]])",
        "given = torch.tensor([first[-1:] if isinstance(first, Sequence) else [first]])",
        INVERSION,
    ),
    Mutant("forecast: scaled units", "recipes/sequences.py", "column.deviation * scaled", "scaled", SEQUENCES),
    Mutant("forecast: rows of the inputs", "data/sequences.py", "row=1 + ahead)", "row=1)", SEQUENCES),
    Mutant("forecast: any file", "recipes/user_file.py", "!= self.sha256.lower():", "is None:", SEQUENCES),
    Mutant(
        "forecast: a file that was moved is another",
        "training/run_folder.py",
        '    "settings.file",',
        "",
        SEQUENCES,
    ),
    Mutant(
        "forecast: a file changed before it goes on",
        "training/run_folder.py",
        "== CHECKSUM and",
        "is None and",
        SEQUENCES,
    ),
    Mutant(
        "sequences: floors fitted to the test",
        "recipes/sequences.py",
        "tapped(splits.train.images, count), splits.train.labels",
        "tapped(splits.test.images, count), splits.test.labels",
        SEQUENCES,
    ),
    Mutant(
        "inversion: a matched step without g",
        "recipes/regularized_inversion.py",
        "isinstance(rule, RecurrentTargets) else settings.recurrent_step",
        "isinstance(rule, RecurrentTargets) else 1.0",
        INVERSION,
    ),
    Mutant(
        "inversion: surges are counted as usual",
        "recipes/regularized_inversion.py",
        "MEMORY * math.log(allowed)",
        "MEMORY * math.log(norm)",
        INVERSION,
    ),
    Mutant(
        "inversion: staying solved counted from the beginning",
        "recipes/regularized_inversion.py",
        "later = good[first:]",
        "later = good",
        INVERSION,
    ),
)

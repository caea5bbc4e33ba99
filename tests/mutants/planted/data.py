"""Planted defects of data: augmentation, sequences, files and made sets."""

from mutant import Mutant

DATA = ("tests/data/test_data_augmentation.py", "tests/data/test_data_batches.py")
SEQUENCES = ("tests/data/test_data_sequences.py",)
SEQUENCE_TASKS = ("tests/data/test_data_sequence_tasks.py",)
MADE = ("tests/data/test_data_made.py",)

MUTANTS = (
    Mutant(
        "flip: all images alike",
        "data/batches.py",
        "torch.randint(2, (len(x),), generator=generator)",
        "torch.ones(len(x), dtype=torch.int64)",
        DATA,
    ),
    Mutant(
        "cutout: off its middle",
        "data/augmentation.py",
        " + side // 8",
        "",
        DATA,
    ),
    Mutant(
        "cutout: crops redrawn",
        "data/batches.py",
        "generator = self._generator(epoch, 1 + index)",
        "generator = self._generator(epoch, 1)",
        DATA,
    ),
    Mutant(
        "sequences: the same in every epoch",
        "data/batches.py",
        "self.image_set.of_epoch(epoch) if self.shuffle else self.image_set",
        "self.image_set",
        SEQUENCES,
    ),
    Mutant(
        "sequences: scaled by all rows",
        "data/sequences.py",
        "values[:split].mean(dim=0)",
        "values.mean(dim=0)",
        SEQUENCES,
    ),
    Mutant(
        "sequences: a first row of numbers, one of them a date, is one of names",
        "data/sequences.py",
        "if all(_number(name) is not None or _TIME.fullmatch(name) for name in names):",
        "if all(_number(name) is not None for name in names):",
        SEQUENCES,
    ),
    Mutant(
        "sequences: no column may be named by a year",
        "data/sequences.py",
        "if all(_number(name) is not None or _TIME.fullmatch(name) for name in names):",
        "if any(_number(name) is not None or _TIME.fullmatch(name) for name in names):",
        SEQUENCES,
    ),
    Mutant(
        "sequences: Mackey-Glass without its delay",
        "data/sequences.py",
        "now, begin, end = x[place], x[place - lag], x[place - lag + 1]",
        "now, begin, end = x[place], x[place - 1], x[place]",
        SEQUENCES,
    ),
    Mutant(
        "sequences: recall and forecast exchanged",
        "data/sequences.py",
        '(early, late) if task == "forecast"',
        '(early, late) if task == "recall"',
        SEQUENCES,
    ),
    Mutant(
        "sequences: the first ones held out",
        "data/splitting.py",
        "return image_set.subset(range(kept)), image_set.subset(range(kept, len(image_set)))",
        "return image_set.subset(range(count, len(image_set))), image_set.subset(range(count))",
        SEQUENCES,
    ),
    Mutant(
        "csv: other separators are one column's name",
        "data/sequences.py",
        "    _refuse_other_separators(path, names)\n",
        "",
        (*SEQUENCES, "-k", "unusable_files"),
    ),
    Mutant(
        "csv: constant columns are proposed",
        "data/sequences.py",
        "strict=True) if spread)",
        "strict=True) if not spread)",
        (*SEQUENCES, "-k", "other_files_and_columns"),
    ),
    Mutant(
        "inversion: the second mark in the wrong half",
        "data/sequence_tasks.py",
        "torch.tensor([[tenth], [length // 2]])",
        "torch.tensor([[tenth], [length // 2 - tenth]])",
        SEQUENCE_TASKS,
    ),
    Mutant("student-teacher: gain of 1", "data/made.py", "3 * math.sqrt(2 /", "1 * math.sqrt(2 /", MADE),
    Mutant("student-teacher: a linear teacher", "data/made.py", "y.relu() if number", "y if number", MADE),
)

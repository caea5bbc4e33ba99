"""Small tasks with a split of their own for every seed: a random teacher, tables, pairs of classes."""

import numpy as np
import torch

from beyondprop.data.loading import load
from beyondprop.data.sets import ImageSet, Splits, image_set, whole
from beyondprop.errors import DataError

TABLES = ("breast-cancer", "iris", "wine")
NOTEBOOK_SEED = 42


def tanh_teacher(samples: int = 100, inputs: int = 20, *, test: int = 2000, width: int = 20, trial: int = 0) -> Splits:
    """The sign of a random network of two hidden layers of tanh, as in the official notebook of arXiv 2303.03382.

        x ~ N(0, 1),    y = sign(tanh(tanh([x, 1] W1) W2) w3),    all weights ~ U(-1, 1)

    drawn in the notebook's order by the generator that it uses, so that trial 0 is its own data (seed 42).

    Args:
        samples: For training.
        inputs: Numbers of a sample.
        test: Samples for testing.
        width: Of both hidden layers.
        trial: The seed is 42 plus this.

    >>> splits = tanh_teacher()
    >>> splits.train.images.shape, splits.test.labels.bincount().tolist()
    (torch.Size([100, 20]), [942, 1058])
    """
    for name, value in (("samples", samples), ("inputs", inputs), ("test", test), ("width", width)):
        whole(value, name, at_least=1)
    draw = np.random.RandomState(NOTEBOOK_SEED + whole(trial, "trial", at_least=0))
    parts = [draw.randn(samples, inputs), draw.randn(test, inputs)]
    shapes = ((inputs + 1, width), (width, width), (width,))
    first, second, last = (draw.uniform(-1, 1, size=shape) for shape in shapes)
    made = []
    for part in parts:
        said = np.tanh(np.tanh(np.hstack([part, np.ones((len(part), 1))]) @ first) @ second) @ last
        labels = torch.from_numpy((said >= 0).astype(np.int64))
        made.append(ImageSet(torch.from_numpy(part).float(), labels, 2, "tanh-teacher", None))
    return Splits(*made)


def table(name: str, *, trial: int = 0, test_share: float = 0.3) -> Splits:
    """A table that comes with scikit-learn, divided at random with the shares of the classes kept.

    Args:
        name: breast-cancer, iris or wine.
        trial: Seed of the division.
        test_share: Of the rows.

    Raises:
        DataError: There is no such table.

    >>> [len(part) for part in table("iris")]
    [105, 45]
    """
    from sklearn import datasets  # noqa: PLC0415  # takes over a second
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    if name not in TABLES:
        raise DataError(f"there is no table {name!r}: choose one of {', '.join(TABLES)}")
    x, y = getattr(datasets, f"load_{name.replace('-', '_')}")(return_X_y=True)
    divided = train_test_split(x, y, test_size=test_share, stratify=y, random_state=trial)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in divided)
    classes = int(y.max()) + 1
    return Splits(
        image_set(train_x.float(), train_y, classes=classes, name=name),
        image_set(test_x.float(), test_y, classes=classes, name=name),
    )


def pair(name: str, first: int, second: int, *, samples: int, trial: int = 0) -> Splits:
    """Two classes of an image set, as classes 0 and 1.

    Args:
        name: As `load` knows it.
        first: Class 0.
        second: Class 1.
        samples: For training, drawn at random where there are more; all of the two classes' test images are kept.
        trial: Seed of the drawing.

    Raises:
        DataError: There are no such classes, or they are one.

    >>> [len(part) for part in pair("digits", 4, 9, samples=100)]
    [100, 72]
    """
    splits = load(name)
    if first == second or not all(0 <= label < splits.train.classes for label in (first, second)):
        raise DataError(f"a pair needs two classes of 0..{splits.train.classes - 1}, got {first} and {second}")
    parts = []
    for part in splits:
        rows = ((part.labels == first) | (part.labels == second)).nonzero()[:, 0]
        if part is splits.train:
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(trial))
            rows = rows[order[: whole(samples, "samples", at_least=2)]]
        chosen = part.subset(rows)
        parts.append(
            ImageSet(chosen.images, (chosen.labels == second).long(), 2, f"{name}-{first}-{second}", chosen.high)
        )
    return Splits(*parts)

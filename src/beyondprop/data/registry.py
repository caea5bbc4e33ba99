"""The named data sets: their files, checksums and publishers. Imports nothing heavy, so `--help` answers at once."""

import difflib
from dataclasses import dataclass
from typing import Literal

from beyondprop.errors import DataError


@dataclass(frozen=True)
class File:
    """One file of a data set as its publisher lays it out.

    Attributes:
        name: File name inside the set's folder.
        count: Number of images (or labels) that the published file holds.
        sha256: Of the file as it lies on disk (an idx file compressed, a CIFAR file unpacked).
    """

    name: str
    count: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A named data set.

    Attributes:
        layout: How files are read: `csv` (scikit-learn's digits), `idx` (images and labels apart) or `cifar` (records).
        folder: Where the files lie below the root; empty where another package brings them.
        shape: Channels, height and width of an image, in pixels.
        classes: Number of classes.
        high: Largest possible pixel value.
        train: Files of the training images; for `idx` the images and then the labels.
        test: Files of the test images, in the same manner; empty where we split the set ourselves.
        url: The folder that holds the files, or the archive; empty where nothing is downloaded.
        archive_md5: The publisher's MD5 of the archive; empty where files are published one by one.
    """

    layout: Literal["csv", "idx", "cifar"]
    folder: str
    shape: tuple[int, int, int]
    classes: int
    high: int
    train: tuple[File, ...]
    test: tuple[File, ...]
    url: str = ""
    archive_md5: str = ""

    @property
    def files(self) -> tuple[File, ...]:
        """All files, training files first."""
        return self.train + self.test


def _idx(folder: str, url: str, *sha256: str) -> Entry:
    """28×28 grey images in four idx files; the checksums in the order train images, labels, test images, labels."""
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    counts = (60_000, 60_000, 10_000, 10_000)
    files = tuple(File(f"{n}-ubyte.gz", c, s) for n, c, s in zip(names, counts, sha256, strict=True))
    return Entry("idx", folder, (1, 28, 28), 10, 255, files[:2], files[2:], url)


SETS: dict[str, Entry] = {
    "digits": Entry(
        "csv",
        "",
        (1, 8, 8),
        10,
        16,
        # The same bytes in every scikit-learn from 1.5 on.
        (File("digits.csv.gz", 1797, "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"),),
        (),
    ),
    "mnist": _idx(
        "MNIST/raw",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion-mnist": _idx(
        "FashionMNIST/raw",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "cifar-10": Entry(
        "cifar",
        "cifar-10-batches-bin",
        (3, 32, 32),
        10,
        255,
        (
            File("data_batch_1.bin", 10_000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            File("data_batch_2.bin", 10_000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            File("data_batch_3.bin", 10_000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            File("data_batch_4.bin", 10_000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            File("data_batch_5.bin", 10_000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ),
        (File("test_batch.bin", 10_000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),),
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    "cifar-100": Entry(
        "cifar",
        "cifar-100-binary",
        (3, 32, 32),
        100,
        255,
        (File("train.bin", 50_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),),
        (File("test.bin", 10_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),),
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
    ),
}


def names() -> tuple[str, ...]:
    """The names that `load` knows.

    >>> names()
    ('digits', 'mnist', 'fashion-mnist', 'cifar-10', 'cifar-100')
    """
    return tuple(SETS)


def find(name: str) -> Entry:
    """The entry of a data set.

    Raises:
        DataError: No data set has this name; the message suggests the closest.
    """
    if isinstance(name, str) and name in SETS:
        return SETS[name]
    close = difflib.get_close_matches(str(name).lower(), SETS, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"there is no data set named {name!r}{hint} (known: {', '.join(SETS)})")

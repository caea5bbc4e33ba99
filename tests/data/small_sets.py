"""Small data sets written byte by byte, without the code under test."""

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

COUNTS = {"train": 12, "test": 5}


def idx_bytes(
    values: np.ndarray, *, magic: bytes = b"\0\0", code: int = 8, sizes: tuple[int, ...] | None = None
) -> bytes:
    sizes = values.shape if sizes is None else sizes
    return magic + struct.pack(">BB", code, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes) + values.tobytes()


def write_gz(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, mtime=0))


def grey(seed: int, count: int, *, items: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Random 28×28 images and labels in 0..9."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, generator.integers(0, 10, count if items is None else items, dtype=np.uint8)


def write_idx_set(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True)
    content = {split: grey(seed, COUNTS[split]) for seed, split in enumerate(COUNTS)}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = content[split]
        write_gz(folder / f"{prefix}-images-idx3-ubyte.gz", idx_bytes(images))
        write_gz(folder / f"{prefix}-labels-idx1-ubyte.gz", idx_bytes(labels))
    return content


def cifar_record(labels: tuple[int, ...], image: np.ndarray) -> bytes:
    """Label bytes, then the red plane by rows, the green and the blue one."""
    planes = b"".join(bytes(image[y, x, c] for y in range(32) for x in range(32)) for c in range(3))
    return bytes(labels) + planes


def write_cifar_set(folder: Path, files: list[str], classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two records a file. Gives height × width × channel images and (fine) labels for each file."""
    folder.mkdir(parents=True)
    content = {}
    for seed, name in enumerate(files):
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        labels = generator.integers(0, classes, 2, dtype=np.uint8)
        coarse = ((19,), (0,)) if classes == 100 else ((), ())
        records = [cifar_record((*c, int(y)), x) for c, y, x in zip(coarse, labels, images, strict=True)]
        (folder / name).write_bytes(b"".join(records))
        content[name] = (images, labels)
    return content


def snapshot(root: Path) -> dict[str, str]:
    """Everything below a folder with the hash of its content, to see that nothing was touched."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


def files_below(root: Path) -> list[str]:
    return [name for name, kind in snapshot(root).items() if kind != "folder"]


def tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()

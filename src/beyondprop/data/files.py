"""Where the files of the named data sets lie, whether they are intact, and how they get there."""

import gzip
import hashlib
import importlib.util
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import pooch

from beyondprop.data.registry import Entry, File, find
from beyondprop.errors import DataError


def root() -> Path:
    """The folder that holds all data sets: `$BEYONDPROP_DATA`, or a folder in the user's cache."""
    chosen = os.environ.get("BEYONDPROP_DATA")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("beyondprop")) / "data"


def where(name: str) -> Path:
    """The folder that a data set is read from; for `digits` the file that scikit-learn brings along.

    Raises:
        DataError: No data set has this name, or scikit-learn is not installed.
    """
    entry = find(name)
    if entry.folder:
        return root() / entry.folder
    sklearn = importlib.util.find_spec("sklearn")  # found, not imported: the import takes over a second
    if sklearn is None or sklearn.origin is None:
        raise DataError(
            f"{name}: scikit-learn, which brings the file along, is not installed; pip install scikit-learn"
        )
    return Path(sklearn.origin).parent / "datasets" / "data" / entry.train[0].name


def locate(name: str, file: File) -> Path:
    """The path of one file of a data set, whether or not it is there."""
    place = where(name)
    return place / file.name if find(name).folder else place


def verify(name: str) -> list[tuple[str, str]]:
    """Compares every file of a data set with its recorded SHA-256.

    Returns:
        For each file its name and `"ok"`.

    Raises:
        DataError: A file is missing, unreadable or differs; the message names the first such file.
    """
    verdicts = []
    for file in find(name).files:
        path = locate(name, file)
        if not _present(name, path):
            raise DataError(f"{name}: {file.name} is missing from {path.parent}; {_ADVICE}")
        found = sha256_of(path)
        if found != file.sha256:
            raise DataError(
                f"{path}: damaged or not the published file (SHA-256 {found[:12]}…, published {file.sha256[:12]}…); "
                "delete it so that it is fetched again"
            )
        verdicts.append((file.name, "ok"))
    return verdicts


def ensure(name: str, *, download: bool) -> None:
    """Makes sure that every file of a data set is there, downloading those that are not.

    A file that is there already is never touched, whatever it holds.

    Raises:
        DataError: A file is absent and may not or cannot be downloaded, or what was downloaded has a wrong checksum.
    """
    entry = find(name)
    missing = [file for file in entry.files if not _present(name, locate(name, file))]
    if not missing:
        return
    if not entry.url:
        raise DataError(f"{name}: {locate(name, missing[0])} is missing; reinstall scikit-learn, which brings it along")
    if not download:
        raise DataError(f"{name}: {missing[0].name} is missing from {where(name)}; allow the download, or {_ADVICE}")
    if entry.archive_md5:
        _from_archive(name, entry, missing)
        return
    for file in missing:
        _retrieve(name, entry.url + file.name, f"sha256:{file.sha256}", locate(name, file))


_ADVICE = "set BEYONDPROP_DATA to a folder that has it"


def _present(name: str, path: Path) -> bool:
    """Whether a file is there. Anything else in its place is an error: it can neither be read nor replaced."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{name}: {path} is not a file; move it away so that the file can be fetched")
        return path.is_file()
    except OSError as error:
        raise DataError(
            f"{name}: {path} cannot be looked at ({_one_line(error)}); choose a file that can be read"
        ) from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_one_line(error)}); choose a file that can") from error


def _retrieve(name: str, url: str, known_hash: str, path: Path) -> None:
    """Downloads to `path`. Pooch writes beside it and renames once the checksum is right, so nothing broken stays."""
    try:
        pooch.retrieve(url, known_hash=known_hash, fname=path.name, path=path.parent)
    except Exception as error:  # whatever the transport raises means the same to the user
        raise DataError(
            f"{name}: {path.name} is not in {path.parent} and could not be downloaded from {url}; put it there, or "
            f"{_ADVICE} ({_one_line(error)})"
        ) from error


def _from_archive(name: str, entry: Entry, missing: list[File]) -> None:
    """Takes the missing files out of the publisher's archive, which a user without network may have put there."""
    archive = root() / entry.url.rsplit("/", 1)[1]
    brought_along = _present(name, archive)
    if brought_along:
        try:
            intact = pooch.file_hash(str(archive), alg="md5") == entry.archive_md5
        except OSError as error:
            raise DataError(f"{archive}: cannot be read ({_one_line(error)}); choose a file that can") from error
        if not intact:
            raise DataError(
                f"{archive}: damaged, its MD5 is not the published one; delete it so that it is fetched again"
            )
    else:
        _retrieve(name, entry.url, f"md5:{entry.archive_md5}", archive)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for file in missing:
                _extract(tar, f"{entry.folder}/{file.name}", locate(name, file), file.sha256)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, KeyError, ValueError) as error:
        raise DataError(
            f"{archive}: cannot be unpacked ({_one_line(error)}); delete it so that it is fetched again"
        ) from error
    except OSError as error:
        raise DataError(f"{where(name)}: cannot be written ({_one_line(error)}); make room or permit it") from error
    if not brought_along:
        archive.unlink(missing_ok=True)  # its files are there now: keeping it would double the space


def _extract(tar: tarfile.TarFile, member: str, path: Path, sha256: str) -> None:
    """Writes one member beside its place and renames it once its checksum is right; the archive names no paths."""
    content = tar.extractfile(member)
    if content is None:
        raise ValueError(f"{member} is no regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with content, partial.open("wb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
        if sha256_of(partial) != sha256:
            raise ValueError(f"the SHA-256 of {member} is not the recorded one")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"

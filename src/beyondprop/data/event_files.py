"""Reading event sequences: CSV files, npz files, and the named sets of point processes."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from beyondprop.data.events import EventSequences, event_sequences
from beyondprop.data.files import root
from beyondprop.errors import DataError

COLUMNS = ("sequence", "time", "mark")
FOLDER = "point-processes"
DAY = 86400.0


def read_events(
    path: str | Path, *, columns: Sequence[str] = COLUMNS, labels: Sequence[str] | None = None
) -> EventSequences:
    """Read a file of events: `.csv` (or `.csv.gz`) or `.npz`.

    Args:
        path: The file. A CSV file is as `read_csv` says. An npz file has the arrays `times`, `marks` (integers from 0
            on) and `offsets`, and `ends` where it is known until when sequences were observed.
        columns: As in `read_csv`; not used by npz files.
        labels: As in `read_csv`.

    Raises:
        DataError: It cannot be read, or what it holds are no events; the message names the line.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return read_csv(path, columns=columns, labels=labels)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in ("times", "marks", "offsets", "ends") if key in stored}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV file or an npz file that is whole") from error
    if missing := [key for key in ("times", "marks") if key not in arrays]:
        raise DataError(f"{path}: has no array {missing[0]!r}; save times, marks and offsets into it")
    return event_sequences(**arrays, labels=labels, name=path.name)


def read_csv(
    path: str | Path, *, columns: Sequence[str] = COLUMNS, labels: Sequence[str] | None = None
) -> EventSequences:
    """Read a CSV file with a line of column names and one line an event; each sequence's events in the order of time.

    Args:
        path: The file; `.gz` is unpacked.
        columns: Names of the columns for sequence, time and mark. A file without a column `sequence` is one sequence;
            any other name must be there. A line with an empty mark says that its sequence was observed until then.
        labels: Names of the marks, in the order of their numbers; by default those in the file, sorted, as numbers
            where all are. Give a test file the training file's.

    Raises:
        DataError: A column is missing, a time is no number or goes back, a mark is unknown, a sequence goes on after
            the line that ends it, or the file cannot be read; the message names the line.
    """
    path, (sequence, time, mark) = Path(path), columns
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV file in UTF-8") from error
    names = reader.fieldnames or []
    for wanted in (time, mark) if sequence == COLUMNS[0] else (sequence, time, mark):  # a name that was given is meant
        if wanted not in names:
            there = ", ".join(map(repr, names)) or "none"
            raise DataError(
                f"{path}: has no column {wanted!r} (its first line names {there}); say by `columns` (--columns) what "
                "sequence, time and mark are called"
            )
    events: dict[str, list[tuple[float, str]]] = {}
    for row in _rows(reader, path):
        place = f"{path}, line {reader.line_num}"
        if sequence in row and not row[sequence].strip():
            raise DataError(f"{place}: names no {sequence!r}")
        try:
            when = float(row[time])
        except ValueError:
            raise DataError(f"{place}: {row[time]!r} is no time; give a number") from None
        if not math.isfinite(when):
            raise DataError(f"{place}: the time is {when}; give a finite number")
        own = events.setdefault((row.get(sequence) or "").strip(), [])
        if own:
            _refuse_disorder(own[-1], when, place, sequence, row.get(sequence))
        own.append((when, row[mark].strip()))
    if not events:
        raise DataError(f"{path}: holds no event below its first line")
    found = sorted({name for rows in events.values() for _, name in rows if name}, key=_as_number)
    known = list(found if labels is None else labels)
    if unknown := sorted(set(found) - set(known)):
        raise DataError(f"{path}: mark {unknown[0]!r} is not among those known ({', '.join(known)})")
    number = {name: index for index, name in enumerate(known)}
    times, marks, sizes, ends = list[float](), list[int](), list[int](), list[float]()
    for name, rows in events.items():
        seen = [(when, number[label]) for when, label in rows if label]
        if not seen:
            raise DataError(f"{path}: sequence {name!r} has no event with a mark; leave it out")
        times += [when for when, _ in seen]
        marks += [index for _, index in seen]
        sizes.append(len(seen))
        ends.append(rows[-1][0])
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    return event_sequences(times, np.array(marks), offsets, ends=ends, labels=known, name=path.name)


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    """The rows; what is no CSV, or has not a field for every column, is refused, and its place told."""
    line = 1
    try:
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                many = "more" if None in row else "fewer"
                raise DataError(f"{path}, line {line}: has {many} fields than the first line")
            yield row
    except csv.Error as error:
        raise DataError(f"{path}: below line {line} is no CSV ({error}); is a quote never closed?") from error


def _refuse_disorder(before: tuple[float, str], when: float, place: str, column: str, name: str | None) -> None:
    if when >= before[0] and before[1]:
        return
    within = f"the file, which has no column {column!r}" if name is None else f"sequence {name!r}"
    if when < before[0]:
        raise DataError(
            f"{place}: the time goes back from {before[0]:g} to {when:g} within {within}; sort the events, or mend it"
        )
    raise DataError(f"{place}: comes after the line without a mark that ends {within}")


def load_events(name: str) -> tuple[EventSequences, EventSequences]:
    """Read a named set from `$BEYONDPROP_DATA/point-processes`.

    Args:
        name: `"hawkes"`, ten kinds of events that excite each other, as the code of arXiv 2107.03354 ships them;
            `"stackoverflow"`, badges, times in days, of which fold 1 is the test set; or `"bookorder"`, orders to buy
            and to sell, fold 1, each spread over its tick.

    Returns:
        Training and test sequences.

    Raises:
        DataError: There is no such set, or its files are missing or damaged.
    """
    folder = root() / FOLDER
    if name == "hawkes":
        files = [folder / f"hawkes-synthetic-{part}.csv.gz" for part in ("train", "test")]
        _require(*files)
        given = ("seq_index", "timestamp", "marker")
        train = read_csv(files[0], columns=given)
        return train, read_csv(files[1], columns=given, labels=train.labels)
    if name == "stackoverflow":
        stored = _arrays(folder / "stackoverflow.npz", "times", "marks", "offsets", "fold")
        events = event_sequences(stored["times"], stored["marks"] - 1, stored["offsets"], labels=22, name=name)
        test = stored["fold"] == 1
        events = events.in_unit(DAY)
        return events.subset(np.flatnonzero(~test)), events.subset(np.flatnonzero(test))
    if name == "bookorder":
        parts = ("train", "test")
        kinds = ("times", "marks", "offsets")
        stored = _arrays(folder / "bookorder-fold1.npz", *(f"{kind}_1_{part}" for part in parts for kind in kinds))
        train, test = (
            event_sequences(
                stored[f"times_1_{part}"],
                stored[f"marks_1_{part}"] - 1,
                stored[f"offsets_1_{part}"],
                labels=2,
                name=name,
            )
            for part in parts
        )
        return train.spread(BOOKORDER_TICK, seed=0), test.spread(BOOKORDER_TICK, seed=1)
    raise DataError(f"there is no set of events named {name!r} (known: hawkes, stackoverflow, bookorder)")


BOOKORDER_TICK = 1 / 60000  # all times are whole multiples of it


def _require(*files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{file} is missing: put it there, set BEYONDPROP_DATA to a folder that has {FOLDER}/{file.name}, or "
                "train on a file of your own (gchp/csv --file FILE.csv)"
            )


def _arrays(file: Path, *names: str) -> dict[str, np.ndarray]:
    _require(file)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: damaged ({error}); put the whole file there") from error


def _as_number(name: str) -> tuple[float, str]:
    """Sorts numbers by their value, before words."""
    try:
        value = float(name)
    except ValueError:
        return math.inf, name
    return (value if math.isfinite(value) else math.inf), name

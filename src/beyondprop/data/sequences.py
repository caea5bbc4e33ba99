"""Sequences with regression targets: copying memory, adding, Mackey-Glass, and columns of a user's CSV file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from beyondprop.data.sets import Column, SequenceSet, Splits, whole
from beyondprop.errors import DataError

_TIME = re.compile(r"\d[\d :./T+Z-]*")  # a date, a time or both

SYMBOLS = 8  # of copying memory, beside blank and marker
TEST_EPOCH = 2**31  # test sequences are drawn as those of an epoch that no training reaches


def copying_memory(length: int = 100, delay: int = 10, *, train: int = 1000, test: int = 1000) -> Splits:
    """Copying memory, as in arXiv 2405.08967: symbols, a pause, and markers at which the symbols are to be repeated.

    Inputs and targets are one-hot codes of 10: blank, eight symbols, marker. The target is blank until the markers.
    Every epoch has fresh sequences.

    Args:
        length: Symbols to be remembered, at least 1.
        delay: Blank steps between them and the markers, at least 0.
        train: Sequences of an epoch.
        test: Sequences for testing.

    Raises:
        DataError: A number is too small.

    >>> train, _ = copying_memory(2, 1, train=4, test=4)
    >>> x, y = train.images.argmax(-1), train.labels.argmax(-1)
    >>> bool((x[:, :2] == y[:, 3:]).all()), x[0, 2:].tolist(), y[0, :3].tolist()
    (True, [0, 9, 9], [0, 0, 0])
    """
    length, delay = whole(length, "length", at_least=1), whole(delay, "delay", at_least=0)

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(1, 1 + SYMBOLS, (count, length), generator=generator)
        blank, marker = symbols.new_zeros(count, length + delay), torch.full_like(symbols, 1 + SYMBOLS)
        inputs = torch.cat([symbols, blank[:, :delay], marker], dim=1)
        codes = F.one_hot(torch.stack([inputs, torch.cat([blank, symbols], dim=1)]), 2 + SYMBOLS).float()
        return codes[0], codes[1]

    return drawn(draw, train, test, f"copying-{length}-{delay}", 2 + SYMBOLS)


def adding_problem(length: int = 50, *, train: int = 1000, test: int = 1000) -> Splits:
    """The adding problem (Hochreiter and Schmidhuber, 1997): the sum of the two numbers that are marked.

    Inputs of a step are a number, uniform in 0..1, and its mark; one step of each half is marked. The target is the
    present sum of the marked numbers at every step, so that the last one is the sum of both.

    Args:
        length: Steps, at least 2.
        train: Sequences of an epoch.
        test: Sequences for testing.

    Raises:
        DataError: A number is too small.

    >>> train, _ = adding_problem(6, train=3, test=3)
    >>> x, y = train.images, train.labels
    >>> bool(torch.allclose((x[..., 0] * x[..., 1]).sum(1), y[:, -1, 0])), x[..., 1].sum(1).tolist()
    (True, [2.0, 2.0, 2.0])
    """
    length = whole(length, "length", at_least=2)

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = torch.rand(count, length, generator=generator)
        first = torch.randint(length // 2, (count,), generator=generator)
        second = torch.randint(length // 2, length, (count,), generator=generator)
        marks = (F.one_hot(first, length) + F.one_hot(second, length)).float()
        return torch.stack([numbers, marks], dim=2), (numbers * marks).cumsum(dim=1).unsqueeze(2)

    return drawn(draw, train, test, f"adding-{length}", 1)


def mackey_glass_series(
    steps: int, *, series: int = 1, tau: float = 17.0, seed: int = 0, substeps: int = 10, washout: int = 100
) -> Tensor:
    """Integrate dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x, and squash it as arXiv 2405.08967 does.

    Fourth-order Runge-Kutta; the delayed value between two substeps is their mean. The past is 1.2 with noise of ±0.1.

    Args:
        steps: Samples of each series, one time unit apart.
        series: Series with pasts of their own.
        tau: Delay in time units, a multiple of 1 / `substeps`.
        seed: Of the past.
        substeps: Of a time unit.
        washout: Samples that are left out at the beginning.

    Returns:
        tanh(x - 1), float32 of shape (series, steps).

    Raises:
        DataError: A number is too small, or tau is no multiple.
    """
    steps, series, substeps = (
        whole(value, name, at_least=1) for value, name in ((steps, "steps"), (series, "series"), (substeps, "substeps"))
    )
    lag = round(tau * substeps)
    if lag < 1 or abs(lag - tau * substeps) > 1e-9:
        raise DataError(f"tau must be a positive multiple of 1/{substeps}, not {tau}")
    total = (steps + whole(washout, "washout", at_least=0)) * substeps
    past = 1.2 + 0.2 * (np.random.default_rng(seed).random((lag + 1, series)) - 0.5)
    x = np.concatenate([past, np.empty((total, series))])
    step = 1 / substeps

    def slope(now: np.ndarray, delayed: np.ndarray) -> np.ndarray:
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * now

    for place in range(lag, lag + total):
        now, begin, end = x[place], x[place - lag], x[place - lag + 1]
        middle = (begin + end) / 2
        k1 = slope(now, begin)
        k2 = slope(now + step / 2 * k1, middle)
        k3 = slope(now + step / 2 * k2, middle)
        k4 = slope(now + step * k3, end)
        x[place + 1] = now + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    samples = x[lag + substeps :: substeps][washout : washout + steps]
    return torch.from_numpy(np.tanh(samples.T - 1)).float()


def mackey_glass(
    *,
    task: str = "forecast",
    shift: int = 15,
    steps: int = 5000,
    window: int = 100,
    series: int = 1,
    tau: float = 17.0,
    seed: int = 0,
) -> Splits:
    """Mackey-Glass series, cut into windows: a forecast, or the recall that the released code of arXiv 2405.08967 has.

    Training and test series are integrated from pasts of their own, and the training mean is taken from both.

    Args:
        task: `"forecast"`: the target is the value `shift` steps ahead; `"recall"`: the one `shift` steps back.
        shift: Steps, at least 1.
        steps: Of each series that are targets, at least `window`.
        window: Length of the sequences, one behind the other; a rest is left out.
        series: Training series, and as many for testing.
        tau: See `mackey_glass_series`.
        seed: Likewise.

    Raises:
        DataError: A number is too small, or the task is none of these.
    """
    if task not in ("forecast", "recall"):
        raise DataError(f"task must be 'forecast' or 'recall', not {task!r}")
    shift, window = whole(shift, "shift", at_least=1), whole(window, "window", at_least=2)
    values = mackey_glass_series(steps + shift, series=2 * series, tau=tau, seed=seed)
    values = values - values[:series].mean()
    early, late = values[:, :-shift], values[:, shift:]
    inputs, targets = (early, late) if task == "forecast" else (late, early)
    return Splits(
        *(
            windows(inputs[rows], targets[rows], window, f"mackey-glass-{task}")
            for rows in (slice(series), slice(series, None))
        )
    )


def read_csv(path: Path | str, *, columns: tuple[str, ...] = ()) -> tuple[list[str], Tensor]:
    """Read columns of numbers, in the order of time, from a CSV file whose first line names them.

    Args:
        path: The file, of UTF-8 text.
        columns: Those wanted; by default all that hold numbers in at least half of the rows.

    Returns:
        Names, and float64 values of shape (rows, columns).

    Raises:
        DataError: The file cannot be read, has no rows or names, a column is not there, or a value is no finite number;
            the message says in which line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if row]
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): name a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file of UTF-8 text ({error}): convert it") from error
    if len(rows) < 2:
        raise DataError(f"{path} needs a line of column names and at least one row of numbers")
    names = [name.strip() for name in rows[0][1]]
    if all(_number(name) is not None or _TIME.fullmatch(name) for name in names):
        raise DataError(
            f"{path}, line {rows[0][0]}: numbers where column names are expected: put a line of names first"
        )
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} names the column {repeated!r} twice: rename one")
    _refuse_other_separators(path, names)
    if absent := next((name for name in columns if name not in names), None):
        raise DataError(f"{path} has no column {absent!r}: it has {', '.join(names)}")
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} values where the first line names {len(names)} columns")
    wanted = list(columns) or _columns_of_numbers(names, [row for _, row in rows[1:]])
    if not wanted:
        raise DataError(f"{path}: no column holds finite numbers")
    places, values = [names.index(name) for name in wanted], np.empty((len(rows) - 1, len(wanted)))
    for index, (line, row) in enumerate(rows[1:]):
        for column, place in enumerate(places):
            number = _number(row[place])
            if number is None:
                where = f"{path}, line {line}, column {names[place]}"
                raise DataError(f"{where}: {row[place]!r} is no finite number: mend it or drop the row")
            values[index, column] = number
    return wanted, torch.from_numpy(values)


def _refuse_other_separators(path: Path | str, names: Sequence[str]) -> None:
    if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in names[0]), None)):
        raise DataError(f"{path} has no commas in its first line: values must have commas between them, not {mark!r}")


def _columns_of_numbers(names: list[str], rows: list[list[str]]) -> list[str]:
    """Those of which at least half is numbers: what else stands in them are gaps, which are told, and not text."""
    numbers = [sum(_number(row[place]) is not None for row in rows) for place in range(len(names))]
    return [name for name, count in zip(names, numbers, strict=True) if 2 * count >= len(rows)]


def csv_forecast(
    path: Path | str,
    *,
    target: str = "",
    columns: tuple[str, ...] = (),
    ahead: int = 1,
    window: int = 48,
    test_fraction: float = 0.2,
) -> Splits:
    """Forecast a column of a user's CSV file, rows ahead, from all columns: as the weather task of arXiv 2405.08967.

    The rows are divided in the order of time, and scaled to mean 0 and deviation 1 by the training rows alone. No
    target of training lies among the test rows. The sets' `column` leads back to the original units.

    Args:
        path: As of `read_csv`.
        target: The column to be forecast; by default the first.
        columns: The columns read; by default all that hold numbers.
        ahead: Rows between an input and its target, at least 1.
        window: Length of the sequences.
        test_fraction: Share of the rows, the last ones, kept for testing; above 0 and below 1.

    Raises:
        DataError: As `read_csv`, or a number is out of range, or there are too few rows, or a training column is
            constant.
    """
    ahead, window = whole(ahead, "ahead", at_least=1), whole(window, "window", at_least=2)
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must lie between 0 and 1, not {test_fraction}")
    names, values = read_csv(path, columns=columns)
    if target and target not in names:
        raise DataError(f"{path}: the target {target!r} is none of the columns read: {', '.join(names)}")
    place = names.index(target) if target else 0
    split = math.floor(len(values) * (1 - test_fraction))
    if min(split, len(values) - split) < window + ahead:
        raise DataError(
            f"{path} has {len(values)} rows: training and test part need at least {window + ahead} each (a window of "
            f"{window} and {ahead} ahead), and {test_fraction:.0%} are the test part: shorten the window, or add rows"
        )
    mean, deviation = values[:split].mean(dim=0), values[:split].std(dim=0, correction=0)
    if not deviation.all():
        constant = names[int((deviation == 0).int().argmax())]
        others = " ".join(name for name, spread in zip(names, deviation, strict=True) if spread)
        raise DataError(
            f"{path}: column {constant} is constant in the training rows: choose others by --columns, such as {others}"
        )
    scaled = ((values - mean) / deviation).float()
    parts = (scaled[:split], scaled[split:])
    sets = (
        windows(part[None, :-ahead], part[None, ahead:, place : place + 1], window, Path(path).stem) for part in parts
    )
    column = Column(names[place], float(mean[place]), float(deviation[place]), row=1 + ahead)
    train, test = (
        replace(made, column=replace(column, row=column.row + before))
        for made, before in zip(sets, (0, split), strict=True)
    )
    return Splits(train, test)


def weather_like(path: Path | str, *, rows: int = 4000, seed: int = 0) -> Path:
    """Write a CSV file of made-up hourly weather, for trying `csv_forecast`.

    Args:
        path: Where.
        rows: Hours.
        seed: Of the noise.

    Returns:
        The path.
    """
    generator, hours = np.random.default_rng(seed), np.arange(rows)
    daily, yearly = 2 * np.pi * hours / 24, 2 * np.pi * hours / 8766
    weather = np.zeros((rows + 1, 3))  # slow disturbances of temperature, pressure and wind
    for hour in range(rows):
        weather[hour + 1] = (0.98, 0.99, 0.9) * weather[hour] + (0.4, 0.3, 0.7) * generator.standard_normal(3)
    front, pressure, wind = weather[1:].T
    temperature = 12 - 9 * np.cos(yearly) - 4 * np.cos(daily) + front - 0.6 * pressure
    humidity = np.clip(75 - 2.2 * (temperature - 12) + 4 * generator.standard_normal(rows), 5, 100)
    columns = {
        "temperature": temperature,
        "humidity": humidity,
        "pressure": 1013 + 3 * pressure,
        "wind": np.abs(3 + wind - 0.4 * np.cos(daily)),
    }
    lines = zip(*(np.round(column, 3) for column in columns.values()), strict=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["hour", *columns])
        writer.writerows([f"h{hour}", *line] for hour, line in enumerate(lines))
    return Path(path)


def drawn(
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]], train: int, test: int, name: str, outputs: int
) -> Splits:
    """Draw training sequences, fresh in every epoch, and test sequences.

    Args:
        draw: Makes so many inputs and targets from a generator.
        train: Sequences of an epoch, at least 1.
        test: Sequences for testing, at least 1.
        name: Of the task.
        outputs: Numbers that a step's target has, or classes.
    """
    train, test = whole(train, "train", at_least=1), whole(test, "test", at_least=1)

    def of(count: int, epoch: int) -> tuple[Tensor, Tensor]:
        return draw(count, torch.Generator().manual_seed(epoch))

    first, last = of(train, 0), of(test, TEST_EPOCH)
    return Splits(
        SequenceSet(*first, outputs, name, None, lambda epoch: of(train, epoch)),
        SequenceSet(*last, outputs, name, None),
    )


def windows(inputs: Tensor, targets: Tensor, window: int, name: str) -> SequenceSet:
    """Cut series (series, steps[, columns]) into sequences, one behind the other."""
    if inputs.shape[1] < window:
        raise DataError(f"{name}: a series of {inputs.shape[1]} steps holds no window of {window}")
    whole_steps = inputs.shape[1] // window * window
    x, y = (part[:, :whole_steps].reshape(-1, window, *part.shape[2:]) for part in (inputs, targets))
    x, y = (part if part.ndim == 3 else part.unsqueeze(2) for part in (x, y))
    return SequenceSet(x.contiguous(), y.contiguous(), y.shape[2], name, None)


def _number(text: str) -> float | None:
    """The finite number that a text holds, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def tapped(inputs: Tensor, taps: int) -> Tensor:
    """Put the last inputs side by side, as a linear filter sees them; before a sequence's beginning there are zeros.

    Args:
        inputs: Shape (N, time, inputs).
        taps: How many steps, the present one among them.

    Returns:
        float64, shape (N, time, inputs * taps + 1); the last column is 1.

    >>> tapped(torch.tensor([[[1.0], [2.0], [3.0]]]), 2).tolist()
    [[[0.0, 1.0, 1.0], [1.0, 2.0, 1.0], [2.0, 3.0, 1.0]]]
    """
    padded = F.pad(inputs.double(), (0, 0, taps - 1, 0))
    return F.pad(padded.unfold(1, taps, 1).flatten(2), (0, 1), value=1.0)

"""Sequences: what the tasks ask, how series are integrated, and what a CSV file must hold."""

import math

import numpy as np
import pytest
import torch

from beyondprop.data import Batches, hold_out
from beyondprop.data.sequences import (
    adding_problem,
    copying_memory,
    csv_forecast,
    mackey_glass,
    mackey_glass_series,
    read_csv,
    tapped,
    weather_like,
)
from beyondprop.errors import DataError


def test_copying_repeats_the_symbols_at_the_markers():
    train, _ = copying_memory(4, 2, train=50, test=3)
    assert train.images.shape == train.labels.shape == (50, 10, 10)
    x, y = train.images.argmax(-1), train.labels.argmax(-1)
    assert torch.equal(y[:, 6:], x[:, :4])
    assert set(x[:, :4].unique().tolist()) == set(range(1, 9))
    assert (x[:, 4:6] == 0).all()
    assert (x[:, 6:] == 9).all()
    assert (y[:, :6] == 0).all()


def test_every_epoch_is_fresh_and_can_be_had_again():
    train, test = copying_memory(5, 1, train=20, test=20)
    batches = Batches(train, 20, shuffle=True, seed=3)
    first, second = (next(batches.epoch(e))[0] for e in (0, 1))
    assert not torch.equal(first.sort(dim=0).values, second.sort(dim=0).values)
    assert torch.equal(next(Batches(train, 20, shuffle=True, seed=3).epoch(1))[0], second)
    fixed = Batches(test, 20, shuffle=False)
    assert torch.equal(next(fixed.epoch(0))[0], next(fixed.epoch(1))[0])
    assert torch.equal(next(fixed.epoch(0))[0], test.images)  # neither scaled nor shifted
    assert not torch.equal(train.images, test.images)


def test_adding_sums_the_marked_numbers():
    train, _ = adding_problem(7, train=40, test=1)
    for x, y in zip(train.images, train.labels, strict=True):
        first, second = x[:, 1].nonzero().flatten().tolist()
        assert first < 3 <= second
        assert float(y[-1]) == pytest.approx(float(x[first, 0] + x[second, 0]))
        assert float(y[first]) == pytest.approx(float(x[first, 0]))


def test_mackey_glass_against_many_small_euler_steps():
    """Integrated anew, in plain Python, from the same constant past."""
    found = mackey_glass_series(40, tau=17, seed=4, washout=0)
    past = 1.2 + 0.2 * (np.random.default_rng(4).random((171, 1)) - 0.5)
    fine, step = 20, 1 / 200  # steps between two samples of the past
    x = [float(np.interp(i / fine, range(171), past[:, 0])) for i in range(170 * fine + 1)]
    for i in range(40 * 200):
        delayed = x[i]
        x.append(x[-1] + step * (0.2 * delayed / (1 + delayed**10) - 0.1 * x[-1]))
    expected = [math.tanh(x[170 * fine + 200 * n] - 1) for n in range(1, 41)]
    assert found[0].tolist() == pytest.approx(expected, abs=3e-3)


def test_mackey_glass_depends_on_its_past_and_varies_as_published():
    assert torch.equal(mackey_glass_series(50, seed=1), mackey_glass_series(50, seed=1))
    assert not torch.equal(mackey_glass_series(50, seed=2), mackey_glass_series(50, seed=1))
    long = mackey_glass_series(2000)
    assert 0.03 < float(long.var()) < 0.06  # the released task's is 0.0468


@pytest.mark.parametrize(("task", "lag"), [("recall", -3), ("forecast", 3)])
def test_targets_lie_behind_or_ahead(task, lag):
    train, test = mackey_glass(task=task, shift=3, steps=60, window=20, series=2)
    assert train.images.shape == train.labels.shape == (6, 20, 1)
    for part in (train, test):
        x, y = part.images[..., 0], part.labels[..., 0]
        for t in range(3, 17):
            assert torch.equal(y[:, t], x[:, t + lag])
    assert not torch.equal(train.images, test.images)
    assert abs(float(train.images.mean())) < 0.05


def test_held_out_sequences_are_the_latest():
    train, _ = mackey_glass(steps=100, window=10)
    rest, held = hold_out(train, 3, seed=0)
    assert torch.equal(rest.images, train.images[:7])
    assert torch.equal(held.labels, train.labels[7:])
    with pytest.raises(DataError, match=r"1\.\.9 sequences, not 10"):
        hold_out(train, 10, seed=0)


def test_taps_see_the_last_inputs():
    x = torch.arange(1.0, 9.0).view(1, 4, 2)
    assert tapped(x, 2)[0, 2].tolist() == [3.0, 5.0, 4.0, 6.0, 1.0]
    assert tapped(x, 2)[0, 0].tolist() == [0.0, 1.0, 0.0, 2.0, 1.0]


def write(path, text):
    path.write_text(text)
    return path


def test_csv_is_split_in_time_and_scaled_by_training_rows_alone(tmp_path):
    rows = [f"d{i},{i},{i % 3}" for i in range(100)]
    path = write(tmp_path / "t.csv", "\n".join(["day,level,phase", *rows]))
    train, test = csv_forecast(path, target="level", ahead=2, window=5)
    mean, deviation = 39.5, (sum((i - 39.5) ** 2 for i in range(80)) / 80) ** 0.5
    x = train.images.flatten(0, 1)[:, 0] * deviation + mean
    assert x.tolist() == pytest.approx(list(range(75)), abs=1e-3)  # 78 inputs, in whole windows
    assert (train.labels.flatten() * deviation + mean).tolist() == pytest.approx(list(range(2, 77)), abs=1e-3)
    assert float(test.images[0, 0, 0]) * deviation + mean == pytest.approx(80)
    assert float(test.labels.max()) * deviation + mean == pytest.approx(96)
    assert train.images.shape == (15, 5, 2)


def test_columns_without_numbers_are_left_out(tmp_path):
    path = weather_like(tmp_path / "weather.csv", rows=300)
    names, values = read_csv(path)
    assert names == ["temperature", "humidity", "pressure", "wind"]
    assert values.shape == (300, 4)
    assert read_csv(path, columns=("wind",))[1].shape == (300, 1)


def test_columns_may_be_named_by_years(tmp_path):
    (tmp_path / "years.csv").write_text("country,1990,1991\nAT,7.7,7.8\nFR,58.2,58.5\n")
    names, values = read_csv(tmp_path / "years.csv")
    assert names == ["1990", "1991"]
    assert values.tolist() == [[7.7, 7.8], [58.2, 58.5]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("", "needs a line of column names"),
        ("a,b\n", "needs a line of column names"),
        ("a,a\n1,2\n", "names the column 'a' twice"),
        ("a,b\n1,2\n3\n", "line 3: 1 values where the first line names 2"),
        ("a,b\n1,2\nx,2\n", "line 3, column a: 'x' is no finite number"),
        ("a,b\n1,2\n1,nan\n", "line 3, column b: 'nan' is no finite number"),
        ("a,b\nNA,1\n2,2\n3,3\n", "line 2, column a: 'NA' is no finite number"),
        ("1.5,2\n1,2\n3,4\n", "line 1: numbers where column names are expected"),
        ("2020-01-01 12:00,15\n2020-01-01 13:00,2\n", "line 1: numbers where column names are expected"),
        ("a\nx\n", "no column holds finite numbers"),
        ("a;b\n1;2\n3;4\n", "commas between them, not ';'"),
        ("a,b\n1,2\n3,4\n", "has 2 rows: training and test part need at least 49 each"),
    ],
)
def test_unusable_files_are_told_in_one_line(tmp_path, text, said):
    path = tmp_path / "bad.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=said) as raised:
        csv_forecast(path)
    assert "\n" not in str(raised.value)


def test_other_files_and_columns_are_refused(tmp_path):
    path = write(tmp_path / "flat.csv", "a,b\n" + "1,5\n2,5\n" * 200)
    with pytest.raises(DataError, match=r"column b is constant .* choose others by --columns, such as a"):
        csv_forecast(path)
    with pytest.raises(DataError, match="no column 'c': it has a, b"):
        csv_forecast(path, columns=("c",))
    with pytest.raises(DataError, match="target 'b' is none of the columns read: a"):
        csv_forecast(path, columns=("a",), target="b")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_csv(binary)
    with pytest.raises(DataError, match="task must be"):
        mackey_glass(task="both")
    with pytest.raises(DataError, match="tau must be a positive multiple"):
        mackey_glass_series(5, tau=0.01)

"""Event sequences: pieces against a loop, files, and what is refused."""

import gzip

import numpy as np
import pytest

from beyondprop import data
from beyondprop.data.event_files import load_events, read_csv, read_events
from beyondprop.data.events import event_sequences
from beyondprop.errors import DataError

TIMES, MARKS, OFFSETS = [0.4, 0.9, 1.1, 2.7, 3.0, 0.2, 1.5, 1.9, 7.0], [0, 1, 1, 0, 1, 1, 0, 1, 0], [0, 5, 8, 9]
ENDS = [3.8, 1.9, 7.0]


def made():
    return event_sequences(TIMES, MARKS, OFFSETS, ends=ENDS)


@pytest.mark.parametrize(("history", "targets", "first"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (2, 9, 1), (4, 2, 3)])
def test_pieces_are_those_of_a_loop(history, targets, first):
    rows = []
    for i, end in enumerate(ENDS):
        times, marks = TIMES[OFFSETS[i] : OFFSETS[i + 1]], MARKS[OFFSETS[i] : OFFSETS[i + 1]]
        following = [*zip(times, marks, strict=True)] + ([(end, -1)] if end > times[-1] else [])
        for low in range(first, len(following), targets):
            high = min(low + targets, len(following))
            start = max(0, low - history)
            x, y = [], []
            for j in range(start, high - 1):
                x.append((times[j] - times[j - 1] if j else 0.0, marks[j]))
                y.append((following[j + 1][0] - times[j], following[j + 1][1]) if j + 1 >= low else (0.0, -2))
            missing = history + targets - 1 - len(x)
            rows.append((x + [(0.0, -1)] * missing, y + [(0.0, -2)] * missing))
    pieces = made().pieces(history=history, targets=targets, first=first)
    np.testing.assert_allclose(pieces.images, [x for x, _ in rows], atol=1e-6)
    np.testing.assert_allclose(pieces.labels, [y for _, y in rows], atol=1e-6)
    assert pieces.events == sum(mark >= 0 for _, y in rows for _, mark in y)


def test_subset_division_and_units():
    events = made()
    chosen = events.subset([2, 0])
    assert chosen.times.tolist() == [7.0, *TIMES[:5]]
    assert chosen.ends.tolist() == [7.0, 3.8]
    early, late = events.divide(0.67)
    assert (len(early), len(late)) == (2, 1)
    one = event_sequences(TIMES[:5], MARKS[:5], ends=[9.0])
    early, late = one.divide(0.6)
    assert (early.times.tolist(), early.ends.tolist()) == (TIMES[:3], [1.1])
    assert (late.times.tolist(), late.ends.tolist()) == (TIMES[3:5], [9.0])
    assert events.in_unit(2.0).ends.tolist() == [1.9, 0.95, 3.5]
    assert [[len(part) for part in events.divide(share)] for share in (0.1, 0.95)] == [[1, 2], [2, 1]]
    with pytest.raises(DataError, match=r"share .* between 0 and 1, not 1\.0"):
        one.divide(1.0)
    with pytest.raises(DataError, match="holds 1 events"):
        event_sequences([1.0], [0], ends=[2.0]).divide(0.5)


def test_ticks_are_spread_within_themselves():
    events = event_sequences([1.0, 1.0, 2.0, 0.0], [0, 1, 0, 1], [0, 3, 4])
    with pytest.raises(DataError, match=r"sequence 0 has two events at time 1,.*resolution"):
        events.pieces(history=2)
    spread = events.spread(0.5, seed=0)
    assert (np.diff(spread.times[:3]) > 0).all()
    assert np.floor(spread.times / 0.5).tolist() == [2, 2, 4, 0]
    assert sorted(spread.marks[:2].tolist()) == [0, 1]
    assert (spread.ends >= spread.times[spread.offsets[1:] - 1]).all()
    spread.pieces(history=2)


def test_the_last_pieces_are_held_out():
    pieces = made().pieces(history=2)
    rest, held = data.hold_out(pieces, 2, seed=0)
    assert (rest.events, type(held).__name__) == (pieces.events - held.events, "EventSet")
    assert np.array_equal(held.images, pieces.images[-2:])


CSV = "sequence,time,mark\nb,1.0,9\na,0.25,10\na,0.5,9\nb,2.0,10\na,3.5,\n"  # sequences may lie among each other


def test_csv_is_read_by_sequence_and_its_marks_are_named(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(CSV)
    events = read_csv(path)
    assert events.labels == ("9", "10")  # as numbers
    assert events.times.tolist() == [1.0, 2.0, 0.25, 0.5]
    assert events.marks.tolist() == [0, 1, 1, 0]
    assert events.ends.tolist() == [2.0, 3.5]
    packed = tmp_path / "events.csv.gz"
    packed.write_bytes(gzip.compress(b"time,mark\n1,2\n2,1\n"))
    assert len(read_events(packed)) == 1
    assert read_csv(path, labels=["8", "9", "10"]).marks.tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,kind\n1,2\n", "no column 'mark'"),
        ("time,mark\nsoon,2\n", "line 2: 'soon' is no time"),
        ("time,mark\n1,2\nnan,2\n", "line 3: the time is nan"),
        ("time,mark\n1,\n", "no event with a mark"),
        ("time,mark\n1,2\n2\n", "line 3: has fewer fields than the first line"),
        ("time,mark\n1,2\n2,3,4\n", "line 3: has more fields than the first line"),
        ("sequence,time,mark\na,1,2\n,2,3\n", "line 3: names no 'sequence'"),
        ("time,mark\n", "holds no event"),
        ("", "no column 'time'"),
        (
            "time,mark\n1,2\n3,1\n2,1\n",
            "line 4: the time goes back from 3 to 2 within the file, which has no column 'seq",
        ),
        ("sequence,time,mark\na,1,2\nb,3,1\na,0.5,1\n", "line 4: the time goes back from 1 to 0.5 within sequence 'a'"),
        ("time,mark\n1,2\n3,\n4,1\n", "line 4: comes after the line without a mark that ends the file"),
        ('time,mark\n1,"a\n2,b\n3,c\n', "below line 1 is no CSV .*is a quote never closed"),
        ('time,mark\n1,x\n1,"' + 150_000 * "a", "below line 2 is no CSV .*is a quote never closed"),
    ],
)
def test_unusable_csv_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "events.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_csv(path)


def test_columns_have_any_names_and_words_are_trimmed(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("user,when,what\nx,1,b\nx ,2,nan\ny,1,10\ny,3,9\n")
    events = read_events(path, columns=("user", "when", "what"))
    assert events.offsets.tolist() == [0, 2, 4]
    assert events.labels == ("9", "10", "b", "nan")
    with pytest.raises(DataError, match=r"no column 'User' .*'user', 'when', 'what'.*--columns"):
        read_csv(path, columns=("User", "when", "what"))  # not all of them one sequence


def test_unknown_marks_and_unreadable_files_are_refused(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(CSV)
    with pytest.raises(DataError, match="mark '10' is not among those known"):
        read_csv(path, labels=["9"])
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")
    broken = tmp_path / "events.npz"
    broken.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match="cannot be read"):
        read_events(broken)
    np.savez(tmp_path / "other.npz", times=np.ones(2))
    with pytest.raises(DataError, match="no array 'marks'"):
        read_events(tmp_path / "other.npz")


def test_npz_has_the_arrays(tmp_path):
    np.savez(tmp_path / "events.npz", times=TIMES, marks=MARKS, offsets=OFFSETS, ends=ENDS)
    events = read_events(tmp_path / "events.npz")
    assert events.times.tolist() == TIMES
    assert events.ends.tolist() == ENDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [0]), "as many marks as times"),
        (([1.0, 2.0], [0.0, 1.0]), "convert them to integers"),
        (([2.0, 1.0], [0, 1]), "event 1 is earlier"),
        (([1.0, np.inf], [0, 1]), "event 1 has a time that is NaN or infinite"),
        (([1.0, 2.0], [0, -1]), "marks must lie in"),
        (([1.0, 2.0], [0, 1], [0, 2, 2]), "offsets must rise"),
        (([1.0, 2.0], [0, 1], [0, 1.5, 2]), "give whole numbers"),
        ((["1", "2"], [0, 1]), "times are <U1; give numbers"),
        ((np.array(["2020-01-01", "NaT"], "datetime64[s]"), [0, 1]), "times are datetime64"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "times are no array"),
        (([1.0, 2.0], [0, 1], ["a", "b"]), "offsets are <U1"),
    ],
)
def test_unusable_arrays_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        event_sequences(*arguments)


def test_ends_stand_behind_the_events():
    with pytest.raises(DataError, match="none before its last event"):
        event_sequences([1.0, 2.0], [0, 1], ends=[1.5])


def test_unknown_sets_and_missing_files_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYONDPROP_DATA", str(tmp_path))
    with pytest.raises(DataError, match="known: hawkes, stackoverflow, bookorder"):
        load_events("retweets")
    for name in ("hawkes", "stackoverflow", "bookorder"):
        with pytest.raises(DataError, match=r"missing.*BEYONDPROP_DATA.*--file"):
            load_events(name)


@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("hawkes", (100, 35857, 40, 7003), 10),
        ("stackoverflow", (3574, None, 894, None), 22),
        ("bookorder", (100, 331900, 100, 82900), 2),
    ],
)
def test_real_sets_where_they_are(name, counts, classes):
    try:
        train, test = load_events(name)
    except DataError as error:
        pytest.skip(str(error))
    found = (len(train), len(train.times), len(test), len(test.times))
    assert all(wanted in (None, there) for wanted, there in zip(counts, found, strict=True))
    assert train.classes == test.classes == classes
    test.pieces(history=2, first=3)

"""Bad command lines: status 2, one line on stderr, nothing on stdout, no folder touched."""

from pathlib import Path

import pytest

from beyondprop.checks import check, check_fields
from beyondprop.cli import main
from beyondprop.errors import UserError
from beyondprop.recipe import Settings

BAD = [
    # the command
    ("trian", "no command 'trian'; did you mean 'train'?"),
    ("--epochs 5", "no flag --epochs before the command"),
    # the recipe
    ("train noprop-dt/minst", "no recipe 'noprop-dt/minst'; did you mean 'noprop-dt/mnist'?"),
    ("train noprop-ct", "no recipe 'noprop-ct': those of noprop-ct are noprop-ct/digits, noprop-ct/mnist, noprop-ct/"),
    ("train noprop-ct/zzz", "no recipe 'noprop-ct/zzz': those of noprop-ct are noprop-ct/digits"),
    ("train zzz", "no recipe 'zzz' (`beyondprop list`"),
    ("train zzz/digits", "no recipe 'zzz/digits' (`beyondprop list`"),
    ("reproduce", "name a recipe first"),
    ("reproduce --seeds 3", "name a recipe first"),
    ("reproduce bp/digit --seeds 3", "did you mean 'bp/digits'?"),
    ("train --epochs 3 bp/digits", "the recipe comes first: put bp/digits in front of the flags"),
    # flags
    ("train --epocs 5", "no flag --epocs here; did you mean '--epochs'?"),
    ("train --epocs=5", "no flag --epocs here; did you mean '--epochs'?"),
    ("train bp/digits --eta 0.1", "no flag --eta here"),
    ("train -x", "no flag -x here (see"),
    ("train --nonsense", "no flag --nonsense here (see"),
    ("train noprop-ct/digits --adamw", "no flag --adamw here (see"),
    ("train noprop-ct/digits --lr 0.1", "no flag --lr here; did you mean '--learning-rate'?"),
    ("train --bs 16", "no flag --bs here; did you mean '--batch-size'?"),
    ("train --batch 16", "no flag --batch here; did you mean '--batch-size'?"),
    ("train --wd 0", "no flag --wd here; did you mean '--weight-decay'?"),
    ("list --lr", "no flag --lr here (see"),
    ("train --json=yes", "unexpected argument 'yes'"),
    ("reproduce bp/digits --seed 3", "no flag --seed here; did you mean '--seeds'?"),
    ("list --jsno", "no flag --jsno here; did you mean '--json'?"),
    # values of a wrong type
    ("train --epochs", "error: --epochs needs a value (see"),
    ("train --epochs --json", "--epochs"),
    ("train --epochs=", "--epochs: '' is not a whole number"),
    ("train --epochs many", "--epochs: 'many' is not a whole number"),
    ("train --epochs 1.5", "--epochs: '1.5' is not a whole number"),
    ("train --learning-rate fast", "--learning-rate: 'fast' is not a number"),
    ("train --threads two", "--threads: 'two' is not a whole number"),
    ("train --lr-schedule slanted", "invalid choice 'slanted' for argument '--lr-schedule'"),
    ("train --precision float16", "invalid choice 'float16' for argument '--precision'"),
    # values out of range
    ("train --epochs 0", "--epochs must be at least 1, not 0"),
    ("train --epochs -1", "--epochs must be at least 1, not -1"),
    ("train --batch-size 0", "--batch-size must be at least 1"),
    ("train --learning-rate 0", "--learning-rate must be above 0"),
    ("train --learning-rate nan", "--learning-rate must be a finite number"),
    ("train --weight-decay -0.1", "--weight-decay must be at least 0"),
    ("train --validation -1", "--validation must be at least 0"),
    ("train --threads 0", "--threads must be at least 1"),
    ("train --alignment-every -1", "--alignment-every must be at least 0, not -1"),
    ("train --alignment-every 5 --rank 0 --ranks 2", "--alignment-every needs the whole network in one process"),
    ("train --seed -1", "--seed must be at least 0"),
    ("train --dropout 1", "--dropout must be at least 0 and below 1"),
    ("train --hidden 0", "--hidden must be at least 1"),
    ("reproduce bp/digits --seeds 0", "--seeds must be at least 1"),
    ("reproduce bp/digits --epochs 0", "--epochs must be at least 1"),
    ("reproduce bp/digits --suffix a/b", "--suffix must be made of letters"),
    # what only the rule, the data or the machine can refuse
    ("train --highest 2", "alpha_bar"),
    ("train --device teapot", "no device named 'teapot'"),
    ("train --validation 5000", "not 5000"),
    # studies
    ("study bp/digit", "no recipe 'bp/digit'; did you mean 'bp/digits'?"),
    ("study fa/digits", "at least two different recipes"),
    ("study fa/digits fa/digits", "name each once"),
    ("study --seeds 1", "--seeds must be at least 2, not 1"),
    ("study --epochs 0", "--epochs must be at least 1"),
    ("study --seed 1", "no flag --seed here; did you mean '--seeds'?"),
    ("study --seeds 2 fa/digits", "the recipe comes first: put fa/digits in front of the flags"),
    ("study tpsgd/digits fa/digits --local-loss l1", "no flag --local-loss here"),
    ("study fa/digits dfa/mnist", "fa/digits is trained on digits and dfa/mnist on mnist"),
    ("study fa/digits bp/digits", "fa/digits and bp/digits train different networks"),
    ("study noprop-dt/digits noprop-ct/digits", "noprop-dt/digits does not train one network"),
    ("study --depth 0", "has no hidden layer"),
    ("study --out a-file", "a-file is a file"),
    ("study --out others", "others holds other files (x) and no study"),
    # files and folders
    ("train --out a-file", "a-file is a file"),
    ("train --out others", "others holds other files"),
    ("reproduce bp/digits --results a-file", "cannot make the folder a-file/bp"),
    ("evaluate", "evaluate needs a run folder"),
    ("evaluate nowhere", "no run folder nowhere"),
    ("evaluate others", "holds no run"),
    ("evaluate nowhere twice", "unexpected argument 'twice'"),
    ("evaluate others --split dev", "invalid choice 'dev'"),
    ("report nowhere.md", "nowhere.md cannot be read"),
    ("report a-file", "a-file has no place for a table"),
    ("report --results others", "others/x/y.json is no JSON"),
    ("data", "data takes list, where or verify"),
    ("data verfy digits", "did you mean 'verify'?"),
    ("data where", "data where takes one name"),
    ("data list digits", "data list takes no name"),
    ("data where digit", "no data set named 'digit'; did you mean 'digits'?"),
    ("data verify mnist", "is missing"),
]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file and a foreign folder in it; the runs go there too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BEYONDPROP_DATA", str(tmp_path / "data"))
    (tmp_path / "a-file").write_text("not a folder")
    (tmp_path / "others" / "x").mkdir(parents=True)
    (tmp_path / "others" / "x" / "y.json").write_text("{")
    return tmp_path


def files_in(folder: Path) -> dict[str, str]:
    """Every file but locks, which hold nothing."""
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_bad_line_is_told_in_one(line: str, message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]):
    before = files_in(elsewhere)
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert files_in(elsewhere) == before


def test_message_of_several_lines_is_joined(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def refuse(_: object) -> None:
        raise UserError("first\n  second")

    monkeypatch.setattr("beyondprop.cli.listing.run", refuse)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "error: first second\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "5"), ("epochs", True), ("epochs", 1.0), ("learning_rate", "fast"), ("weight_decay", float("inf"))],
)
def test_check_refuses_wrong_types_from_python(name: str, value: object):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        check(**{name: value})


def test_check_accepts_the_bounds():
    check_fields(Settings(epochs=1, batch_size=1, learning_rate=1e-9, weight_decay=0, validation=0))
    check(threads=None, seed=0, seeds=1, dropout=0, anything="else")

"""The command line: what it prints, how fast it answers, what it leaves unimported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import beyondprop
from beyondprop.catalogue import SYSTEMS
from beyondprop.cli import COMMANDS, main

RECIPES = [recipe.id for system in SYSTEMS for recipe in system.recipes]


def ask_for_help(*argv: str) -> None:
    """The help of a command leaves with status 0, as tyro does."""
    with pytest.raises(SystemExit) as leaving:
        main([*argv, "--help"])
    assert leaving.value.code in {0, None}


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# What the system is asked for while a command makes a tensor of 64 MiB five times.
FAULTS = """
import resource, sys
from beyondprop import cli
from beyondprop.cli import listing

def run(_argv):
    import torch
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

listing.run = run
cli.main(["list"])
"""


@pytest.mark.skipif(
    not (HUGE_PAGES.exists() and "[never]" not in HUGE_PAGES.read_text(encoding="utf-8")),
    reason="the system has no large pages to give",
)
def test_large_tensors_get_large_pages(monkeypatch: pytest.MonkeyPatch):
    """Five blocks have 81,920 pages of 4 KiB. The variable is torch's; whoever has set it is left alone."""
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)

    def faults() -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
        return int(done.stdout)

    found = faults()
    if found >= 40_000:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
        assert faults() >= 40_000, "by hand they are given"
        pytest.skip("the system gives no large pages now")
    if "[madvise]" in HUGE_PAGES.read_text(encoding="utf-8"):  # elsewhere they are given to all
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
        assert faults() > 60_000


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"], []])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture[str]):
    ask_for_help(command)
    captured = capsys.readouterr()
    assert f"usage: beyondprop {command}" in captured.out
    assert f"  beyondprop {command}" in captured.out.split("Examples:")[1]
    assert captured.err == ""
    assert max(map(len, captured.out.splitlines()[1:])) <= 120  # below the usage line, lines are wrapped


@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_help_of_a_recipe_shows_its_own_settings(command: str, capsys: pytest.CaptureFixture[str]):
    ask_for_help(command, "noprop-dt/mnist")
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "--epochs INT Passes over the training set. (default: 100)",
        "--lr-schedule {constant,one-cycle,cosine,linear}",
        "--eta FLOAT Weight of the denoising term. (default: 0.1)",
        "--threads INT",
        "--precision {float32,bf16}",
    ):
        assert text in words
    assert ("--seed INT" in words) == (command == "train")  # reproduce trains seeds 0..N-1


@pytest.mark.parametrize(
    "recipe",
    [
        *("dfa/mnist", "cafo/mnist", "cafo/mnist-mse", "noprop-dt/cifar-10", "gchp/hawkes"),
        *("node-perturbation/csv", "gchp/csv", "tp-ri/text"),
    ],
)
@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_examples_of_a_recipe_are_its_own(command: str, recipe: str, capsys: pytest.CaptureFixture[str]):
    """Every example names the recipe, and its flags are understood."""
    ask_for_help(command, recipe)
    printed, _, options = capsys.readouterr().out.split("Examples:")[1].partition("options")
    examples = [line.split() for line in printed.splitlines() if "beyondprop " in line]
    assert len(examples) == 3
    for example in examples:
        assert example[:3] == ["beyondprop", command, recipe]
        assert ("--file" in example) == recipe.endswith(("/csv", "/text"))
        flags = [word for word in example[3:] if word.startswith("--")]
        assert all(re.search(rf" {flag}[ ,]", options) for flag in flags)


def test_help_of_evaluate_shows_no_empty_and_no_second_default(capsys: pytest.CaptureFixture[str]):
    ask_for_help("evaluate")
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert words.count("(default: as the run)") == 2  # steps and device
    assert "(default: )" not in words
    assert "by default" not in words
    assert "(default: auto)" not in words


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"beyondprop {beyondprop.__version__}\n"


def test_list_names_every_system_and_recipe(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for system in SYSTEMS:
        assert f"{system.id}: {system.name}" in out
        assert all(f"    {recipe.id} " in out for recipe in system.recipes)


def test_list_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    systems = json.loads(lines[0])["systems"]
    assert [set(system) for system in systems] == [{"id", "name", "family", "paper", "recipes"}] * len(SYSTEMS)
    assert [set(system["paper"]) for system in systems] == [{"title", "arxiv"}] * len(SYSTEMS)
    assert [recipe for system in systems for recipe in system["recipes"]] == RECIPES


def test_data_where_and_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("BEYONDPROP_DATA", str(tmp_path))
    assert main(["data", "where", "mnist"]) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path))
    assert main(["data", "verify", "digits"]) == 0
    assert capsys.readouterr().out.split() == ["digits.csv.gz", "ok"]
    assert main(["data", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(beyondprop.data.names())


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["list"], ["list", "--json"], ["cite", "dfa"], ["train", "bp/mnist", "--help"], ["data", "list"]],
)
def test_answers_without_torch(argv: list[str]):
    code = (
        "import sys\nfrom beyondprop.cli import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_data_sets_are_listed_without_the_recipes():
    code = (
        "import sys\nfrom beyondprop.cli import main\nmain(['data', 'list'])\n"
        "sys.exit(str([name for name in sys.modules if name.startswith('beyondprop.recipes')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    "variables", [{"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_module_runs_on_plain_terminals(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "beyondprop", "train"]
    shown = subprocess.run([*command, "--help"], capture_output=True, check=True)
    assert b"--batch-size INT" in shown.stdout
    assert b"\x1b" not in shown.stdout
    refused = subprocess.run([*command, "--epochs", "x"], capture_output=True, check=False)
    assert refused.returncode == 2
    message = b"error: --epochs: 'x' is not a whole number (see `beyondprop train noprop-dt/digits --help`)"
    assert refused.stderr.splitlines() == [message]


def test_closed_pipe_is_quiet():
    code = "import sys; from beyondprop.cli import main; sys.stdin.read(); sys.exit(main(['list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # the reader goes before anything is written
    process.stdin.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 0


def test_interrupt_gives_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("beyondprop.cli.listing.run", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("beyondprop.cli.listing.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["list"])

"""What the pages say can be run or followed: code blocks, commands, links; and they speak of the project alone."""

import re
import shlex
import subprocess
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from beyondprop import cli, parallel, training
from beyondprop.catalogue import find_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "results" / "PENDING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
FENCE = re.compile(r"^(?P<fence>```+)(?P<language>[\w+-]*)\n(?P<body>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")  # pictures too

# A page that shows what cannot run marks its block so, on the line above.
SKIP = "<!-- not run -->\n"

NOT_OURS = {
    "a path of one machine": re.compile(r"(?<![\w.$}~-])/(?:root|work|tmp|home|Users)/"),
    "a number of some tracker": re.compile(r"\bissues? #?\d", re.IGNORECASE),
    "the host of a package index": re.compile(r"py[p]i\.|python[h]osted|--(?:extra-)?index-url", re.IGNORECASE),
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The page's code blocks of a language with the number of their first line."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start("body")), found["body"])
        for found in FENCE.finditer(text)
        if found["language"] == language and not text[: found.start()].endswith(SKIP)
    ]


def commands(page: Path) -> list[list[str]]:
    """What stands after `beyondprop` in the page's shell blocks; PENDING.md has its commands on bare lines."""
    bodies = (
        [page.read_text(encoding="utf-8")] if page.name == "PENDING.md" else [body for _, body in blocks(page, "sh")]
    )
    lines = [line for body in bodies for line in body.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("beyondprop ")]


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    """An empty folder to run in, and one thread: on tensors this small more of them only wait for each other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path / "runs"))
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(former)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_blocks_run(page):
    namespace = {"__name__": "page"}
    for line, body in blocks(page, "python"):
        # Empty lines before it, so that a traceback gives the page's own line numbers.
        exec(compile("\n" * line + body, str(page), "exec"), namespace)


class Begun(Exception):  # noqa: N818  # no error: the command line has read every word, and would train now
    pass


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_understood(page, monkeypatch, tmp_path, capsys):
    def begin(*_args, **_settings):
        raise Begun

    monkeypatch.setenv("BEYONDPROP_RUNS", str(tmp_path))
    monkeypatch.setattr(training, "train", begin)
    monkeypatch.setattr(parallel, "train", begin)
    read: set[tuple[object, ...]] = set()
    for words in commands(page):
        if words[0] == "reproduce":  # one of those that differ in the recipe's name alone, and in numbers, will do
            kind = (type(find_recipe(words[1]).settings), *(word for word in words[2:] if not word.isdigit()))
            if kind in read:
                continue
            read.add(kind)
        if words[0] in {"train", "reproduce"}:
            with pytest.raises((Begun, SystemExit)):  # SystemExit: it was asked for help
                cli.main([*words, *(["--results", str(tmp_path)] if words[0] == "reproduce" else [])])
        else:
            with pytest.raises(SystemExit):
                cli.main([words[0], "--help"])
        said = capsys.readouterr().err.splitlines()
        assert not [line for line in said if "begins anew" not in line], shlex.join(words)


def torchrun_commands(page: Path) -> list[list[str]]:
    """What stands after `-m beyondprop` in the page's shell blocks."""
    lines = [line for _, body in blocks(page, "sh") for line in body.splitlines() if line.startswith("torchrun ")]
    return [shlex.split(line.partition(" -m beyondprop ")[2]) for line in lines]


@pytest.mark.parametrize("page", [page for page in PAGES if torchrun_commands(page)], ids=name)
def test_what_torchrun_starts_is_understood(page, monkeypatch):
    def begin(*_args, **_settings):
        raise Begun

    monkeypatch.setattr(parallel, "train", begin)
    for variable, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(variable, value)
    for words in torchrun_commands(page):
        with pytest.raises(Begun):
            cli.main(words)


def test_pending_runs_are_reproductions_and_none_stands_twice():
    wanted = commands(ROOT / "results" / "PENDING.md")
    assert all(words[0] == "reproduce" for words in wanted)
    assert len({tuple(words) for words in wanted}) == len(wanted)


def anchors(page: Path) -> set[str]:
    """What `#...` may name: the headings as GitHub and MyST write them, and targets set by hand."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set(re.findall(r"<a (?:name|id)=\"([^\"]+)\"", text))
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,3} (.*)$", text, re.MULTILINE):  # no deeper ones: myst_heading_anchors
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in LINK.finditer(text):
        target, _, anchor = found["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        other = page.parent / target if target else page
        assert other.exists(), f"{name(page)} links to {target}, which is not there"
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), f"{name(page)} links to {found['target']}: no such heading"


def test_anchors_are_written_as_readers_of_markdown_do(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Rules: `fa`, `dfa`\n## Cost\n```sh\n# no heading\n```\n## Cost\n### [A link](x.md), what (it) costs\n"
    )
    assert anchors(page) == {"rules-fa-dfa", "cost", "cost-1", "a-link-what-it-costs"}


def test_every_page_of_the_documentation_is_listed():
    listed = re.search(r"```\{toctree\}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    assert listed is not None
    entries = {line for line in listed[1].splitlines() if line and not line.startswith(":")}
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in PAGES if "docs" in path.parts}
    unlisted = {page for page in pages if not any(fnmatch(page, entry) for entry in entries)}
    assert unlisted == {"index"}


def test_set_up_is_two_commands_and_the_gate_runs_both():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    set_up = text[text.index("## Set-up") : text.index("## Use")]
    lines = [line for body in re.findall(r"```sh\n(.*?)```", set_up, re.DOTALL) for line in body.splitlines()]
    assert len(lines) == 2
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("--quiet ", "")
    for command in (part.strip() for line in lines for part in line.split("&&")):
        assert command in gate, f".ci/run does not run {command}"


def test_text_speaks_of_the_project_alone():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = []
    for file in filter(None, listed.stdout.decode().split("\0")):
        try:
            text = (ROOT / file).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        for what, pattern in NOT_OURS.items():
            found += [f"{file}: {what}: {match[0]!r}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found)

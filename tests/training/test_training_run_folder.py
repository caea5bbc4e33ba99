"""What a run folder refuses, and that a damaged or full disk costs no checkpoint."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
from contextlib import suppress

import pytest
import torch
from small_training import SETTINGS, Training, metrics, same
from torch import nn

from beyondprop.errors import RunError
from beyondprop.training import checkpoint
from beyondprop.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def two_checkpoints(tmp_path):
    """A run folder with a checkpoint of step 3 and one of step 5, and the state of the uninterrupted training."""
    folder = tmp_path / "run"
    Training().run(folder, kill_at=4)
    shutil.copytree(folder / "checkpoint-3", tmp_path / "kept")
    Training().run(folder, kill_at=3)
    shutil.copytree(tmp_path / "kept", folder / "checkpoint-3")
    whole = Training()
    whole.run(tmp_path / "whole")
    return folder, whole.state()


def damages(content):
    """Ways in which a file can be damaged."""
    yield None
    for length in (0, 1, 7, len(content) // 2, len(content) - 1):
        yield content[:length]
    for place in (0, len(content) // 3, len(content) - 2):
        yield content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :]
    yield bytes(len(content))


def damage(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE, checkpoint.SUMS])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(two_checkpoints, name):
    folder, whole = two_checkpoints
    path = folder / "checkpoint-5" / name
    for content in list(damages(path.read_bytes())):
        damage(path, content)
        assert checkpoint.load(folder).step == 3
    training = Training()
    training.run(folder)
    assert same(training.state(), whole)
    assert metrics(folder) == metrics(folder.parent / "whole")
    assert [step for step, _ in checkpoint.standing(folder)] == [12]


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE, checkpoint.SUMS])
def test_a_lone_damaged_checkpoint_is_told_in_one_line(tmp_path, one_line, name):
    Training().run(tmp_path, kill_at=3)
    path = tmp_path / "checkpoint-2" / name
    for content in list(damages(path.read_bytes())):
        damage(path, content)
        with one_line(RunError, "no checkpoint can be read", "checkpoint-2"):
            Training().run(tmp_path)


def test_without_resume_a_folder_that_holds_a_run_is_refused(tmp_path, one_line):
    Training().run(tmp_path, kill_at=2)
    with one_line(RunError, "holds a run already", "--resume"):
        Training().run(tmp_path, resume=False)


def test_other_settings_are_refused_by_name(tmp_path, one_line):
    about = {"recipe": "bp/x", "settings": {"epochs": 3, "widths": (4, 2)}, "execution": {"device": "cpu", "seed": 0}}
    RunFolder(tmp_path, about).close()
    RunFolder(tmp_path, about, resume=True).close()
    for changed, named in [
        ({"settings": {"epochs": 4, "widths": (4, 2)}}, "its settings.epochs is 3, not 4"),
        ({"settings": {"epochs": 3, "widths": (4, 3)}}, "its settings.widths is [4, 2], not [4, 3]"),
        ({"settings": {"epochs": 3}}, "its settings.widths"),
        ({"execution": {"device": "cpu", "seed": 1}}, "its execution.seed"),
        ({"recipe": "bp/y"}, "its recipe"),
    ]:
        with one_line(RunError, "another run", named):
            RunFolder(tmp_path, {**about, **changed}, resume=True)
    RunFolder(tmp_path, {**about, "execution": {"device": "cuda", "seed": 0}}, resume=True).close()


def test_other_files_are_refused_and_left_alone(tmp_path, one_line):
    (tmp_path / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with one_line(RunError, "thesis.tex"):
            RunFolder(tmp_path, SETTINGS, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, one_line):
    (tmp_path / "file").write_text("")
    with one_line(RunError, "is a file"):
        RunFolder(tmp_path / "file", SETTINGS)
    with one_line(RunError, "cannot write"):
        RunFolder(tmp_path / "file" / "run", SETTINGS)


def test_damaged_settings_metrics_and_result_are_told_in_one_line(tmp_path, one_line):
    Training().run(tmp_path, kill_at=9)
    settings = (tmp_path / "settings.json").read_text()
    for content in ("", "{", "[]", '{"epochs": 3}'):
        (tmp_path / "settings.json").write_text(content)
        with one_line(RunError, "settings.json cannot be read"):
            Training().run(tmp_path)
    (tmp_path / "settings.json").write_text(settings)
    (tmp_path / "result.json").write_text("{")
    with one_line(RunError, "result.json cannot be read"):
        Training().run(tmp_path)
    (tmp_path / "result.json").unlink()
    content = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(b"?" + content[1:])
    with one_line(RunError, "metrics.jsonl cannot be read"):
        Training().run(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(content[:10])
    with one_line(RunError, "metrics.jsonl is shorter"):
        Training().run(tmp_path)


def test_what_a_kill_leaves_half_written_is_swept(tmp_path):
    Training().run(tmp_path, kill_at=5)
    (tmp_path / "checkpoint-5.partial").mkdir()
    (tmp_path / "checkpoint-5.partial" / "state.pt").write_bytes(b"half")
    (tmp_path / "settings.json.partial").write_bytes(b"{")
    RunFolder(tmp_path, SETTINGS, resume=True).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "checkpoint-4",
        "metrics.jsonl",
        "settings.json",
    ]


def test_a_kill_before_the_settings_stand_leaves_a_usable_folder(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "settings.json.partial").write_bytes(b"{")
    RunFolder(tmp_path, SETTINGS).close()


def test_two_processes_cannot_train_in_one_folder(tmp_path, one_line):
    with RunFolder(tmp_path, SETTINGS), one_line(RunError, "another process"):
        RunFolder(tmp_path, SETTINGS, resume=True)
    with RunFolder(tmp_path, SETTINGS, resume=True):
        descriptor = os.open(tmp_path / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_a_start_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "new", SETTINGS):
        1 / 0  # noqa: B018
    assert not (tmp_path / "new").exists()


def test_after_a_start_that_fails_an_empty_folder_may_begin_anew(tmp_path):
    with suppress(ZeroDivisionError), RunFolder(tmp_path, SETTINGS) as run:
        run.append_metrics([{"step": 1}])
        raise ZeroDivisionError
    with suppress(TypeError):
        RunFolder(tmp_path, {"no": object()})
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with suppress(TypeError):
        RunFolder(tmp_path / "new", {"no": object()})
    assert not (tmp_path / "new").exists()
    RunFolder(tmp_path, SETTINGS).close()


@pytest.mark.parametrize("made", [False, True])
def test_what_a_run_has_shown_or_finished_stays(tmp_path, made):
    folder = tmp_path / "new" if made else tmp_path
    with suppress(ZeroDivisionError), RunFolder(folder, SETTINGS) as run:
        run.write_result({"accuracy": 0.5})
        raise ZeroDivisionError
    assert RunFolder(folder, SETTINGS, resume=True).result == {"accuracy": 0.5}


def test_a_start_that_fails_after_a_picture_can_be_resumed(tmp_path):
    with suppress(ZeroDivisionError), RunFolder(tmp_path, SETTINGS) as run:
        run.write("mine.png", b"")
        raise ZeroDivisionError
    RunFolder(tmp_path, SETTINGS, resume=True).close()


def test_a_run_that_goes_on_and_fails_stays(tmp_path):
    RunFolder(tmp_path, SETTINGS).close()
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path, SETTINGS, resume=True):
        1 / 0  # noqa: B018
    assert (tmp_path / "settings.json").exists()


def test_who_is_refused_the_lock_does_not_clear_the_folder(tmp_path, one_line):
    """The second process came when the folder was not there yet, and loses the race for the lock."""
    folder = tmp_path / "run"
    with RunFolder(folder, SETTINGS) as first:
        with one_line(RunError, "another process"), RunFolder(folder, SETTINGS):
            pytest.fail("the lock was given twice")
        first.append_metrics([{"step": 1}])
    assert first.metrics() == [{"step": 1}]


def test_a_read_only_folder_is_refused_before_training(tmp_path, one_line, monkeypatch):
    really = os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really(path, flags, *rest, **more)

    monkeypatch.setattr("os.open", refuse)
    with one_line(RunError, "cannot write", "Read-only file system"):
        RunFolder(tmp_path, SETTINGS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, one_line):
    tmp_path.chmod(0o500)
    with one_line(RunError, "Permission denied"):
        RunFolder(tmp_path / "run", SETTINGS)


def test_too_little_space_is_refused_before_training(tmp_path, one_line, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=15 * 2**20))
    with one_line(RunError, "15 MiB left", "16 MiB"):
        Training().run(tmp_path, kill_at=1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_becomes_full_leaves_the_previous_checkpoint(tmp_path, one_line, monkeypatch, code):
    Training().run(tmp_path, kill_at=4)
    before = sorted(path.name for path in tmp_path.iterdir())
    really = os.write
    for room in (0, 100, 5_000, 12_000):
        left = room

        def write(descriptor, content):
            nonlocal left
            if "checkpoint" not in os.readlink(f"/proc/self/fd/{descriptor}"):
                return really(descriptor, content)
            if left == 0:
                raise OSError(code, os.strerror(code))
            done = really(descriptor, content[:left])
            left -= done
            return done

        with monkeypatch.context() as patch:
            patch.setattr("os.write", write)
            with one_line(RunError, "cannot write", "checkpoint-4", os.strerror(code)):
                Training().run(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    whole, resumed = Training(), Training()
    whole.run(tmp_path.with_name("whole"))
    resumed.run(tmp_path)
    assert same(resumed.state(), whole.state())
    assert metrics(tmp_path) == metrics(tmp_path.with_name("whole"))


def test_a_limit_of_the_operating_system_is_told_in_one_line(tmp_path, one_line):
    Training().run(tmp_path, kill_at=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with one_line(RunError, "cannot write", "File too large"):
            Training().run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert checkpoint.load(tmp_path).step == 3


def test_old_checkpoints_go_only_once_the_new_one_stands(tmp_path, monkeypatch):
    Training().run(tmp_path, kill_at=4)
    seen = []
    rename = checkpoint.remove_folder

    def note(path):
        seen.append((path.name, checkpoint.load(tmp_path).step))
        rename(path)

    monkeypatch.setattr(checkpoint, "remove_folder", note)
    Training().run(tmp_path, kill_at=3)
    assert seen == [("checkpoint-3", 4), ("checkpoint-4", 5)]


class Tied(nn.Module):
    """Weights of every awkward kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.kernel = nn.Parameter(torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
        flat = torch.randn(10)
        self.register_buffer("whole", flat)
        self.register_buffer("part", flat[2:5])
        self.register_buffer("phase", torch.randn(3, dtype=torch.complex64))
        self.register_buffer("links", torch.eye(3).to_sparse())
        self.register_buffer("narrow", torch.randn(3).bfloat16())
        self.register_buffer("nothing", torch.empty(0))
        self.counter = 0

    def get_extra_state(self):
        return {"counter": self.counter}

    def set_extra_state(self, state):
        self.counter = state["counter"]


def test_awkward_tensors_survive(tmp_path):
    module, other = Tied(), Tied()
    module.counter = 5
    checkpoint.save(tmp_path, 1, module, {})
    checkpoint.load(tmp_path).restore_model(other)
    assert other.counter == 5
    for name, value in module.state_dict().items():
        pair = [value, other.state_dict()[name]]
        assert same(*[part.to_dense() if name == "links" else part for part in pair]), name
    assert other.kernel.is_contiguous(memory_format=torch.channels_last)


def test_settings_name_versions_and_commits(tmp_path, monkeypatch):
    monkeypatch.setattr("beyondprop.training.run_folder.source_commit", lambda: "aaa")
    Training().run(tmp_path, kill_at=2)
    for commit in ("aaa", "bbb"):
        monkeypatch.setattr("beyondprop.training.run_folder.source_commit", lambda commit=commit: commit)
        Training().run(tmp_path, kill_at=2)
    stored = json.loads((tmp_path / "settings.json").read_text())
    assert stored["commits"] == ["aaa", "bbb"]
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["epochs"] == 3

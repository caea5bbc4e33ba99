"""The command line: `beyondprop COMMAND`. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from beyondprop import __version__
from beyondprop.checks import suggestion
from beyondprop.cli.output import aligned, note, say
from beyondprop.errors import UserError

COMMANDS = {
    "list": ("listing", "name every system and its recipes"),
    "train": ("train", "train a recipe once, into a run folder"),
    "merge": ("merge", "put together what processes that were started by hand have trained"),
    "evaluate": ("evaluate", "measure a trained run on a split of its data"),
    "export": ("export", "write a trained rule into a folder that can be shared"),
    "reproduce": ("reproduce", "train several seeds and write the result beside the paper's number"),
    "device": ("device", "offer a simulated chip to a training in another process"),
    "compare": ("compare", "train several rules side by side and write one page about them"),
    "study": ("study", "compare rules on one network over several seeds, with pictures"),
    "report": ("report", "make the tables of the documentation from the result files"),
    "cite": ("cite", "print the BibTeX entries of rules' papers"),
    "data": ("data", "say where the data sets lie and whether their files are intact"),
}

HELP = f"""usage: beyondprop COMMAND [ARGUMENTS]

Trains neural networks with the learning rules that come after plain back-propagation.

Commands:
{aligned([(name, summary) for name, (_, summary) in COMMANDS.items()])}

Options:
  -h, --help  show this help; `beyondprop COMMAND --help` shows a command's
  --version   show the version

Examples:
  beyondprop train                          a first run: a minute or two, nothing to download
  beyondprop train noprop-dt/mnist --help   the settings of one recipe
  beyondprop reproduce noprop-dt/digits --seeds 3

Runs go to $BEYONDPROP_RUNS, data sets to $BEYONDPROP_DATA (default: the user's cache folder)."""

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command and its arguments; by default those of the process.

    Returns:
        The exit status: 0; 2 for what the user can mend, told in one line on stderr; 130 when interrupted. An
        unexpected error is raised as it is.
    """
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where a closed pipe is expected
    except UserError as error:
        note(f"error: {' '.join(str(error).split())}")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or "Python has none left"
        note(f"error: there is not enough memory ({reason}): choose a smaller --batch-size or network")
        return 2
    except KeyboardInterrupt as interrupt:
        note(str(interrupt) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has had enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _out_of_memory(error: Exception) -> bool:
    """Whether memory has run out, on a processor or on an accelerator, whose errors torch has no common class for."""
    said = str(error)
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in said or "out of memory" in said


def _dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in {"-h", "--help", "help"}:
        say(HELP)
    elif argv[0] == "--version":
        say(f"beyondprop {__version__}")
    elif argv[0] in COMMANDS:
        # Read by torch when it is first imported. The memory of tensors above 32 MiB comes anew from the system each
        # time: in pages of 4 KiB that can take as long as what is done with it.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        importlib.import_module(f"beyondprop.cli.{COMMANDS[argv[0]][0]}").run(argv[1:])
    elif argv[0].startswith("-"):
        raise UserError(f"there is no flag {argv[0]} before the command (see `beyondprop --help`)")
    else:
        raise UserError(f"there is no command {argv[0]!r}{suggestion(argv[0], COMMANDS)} (see `beyondprop --help`)")

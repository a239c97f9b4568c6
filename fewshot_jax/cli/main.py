"""``fewshot-jax COMMAND ...``: find the command, run it, turn mistakes into messages."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from fewshot_jax.atomic_write import FULL, cannot_write
from fewshot_jax.cli.examples import example_of
from fewshot_jax.config_file import nearest
from fewshot_jax.errors import Terminated, UserError
from fewshot_jax.notes import plain_notes

TERMINATED = 75  # EX_TEMPFAIL of sysexits.h: try again
# The module of each command has a function ``run(arguments)``.
COMMANDS = {
    "pretrain": ("fewshot_jax.cli.pretrain", "train a language model on raw texts"),
    "train": ("fewshot_jax.cli.train", "meta-train from a config, then evaluate"),
    "plan": ("fewshot_jax.cli.plan", "estimate memory, traffic and time on devices that are not here"),
    "evaluate": ("fewshot_jax.cli.evaluate", "evaluate a run on unseen classes, beside the baselines"),
    "adapt": ("fewshot_jax.cli.adapt", "adapt a run to a file of labelled texts and save the model"),
    "predict": ("fewshot_jax.cli.predict", "label the texts of a file with an adapted model"),
    "tune": ("fewshot_jax.cli.tune", "search hyperparameters by validation scores"),
    "report": ("fewshot_jax.cli.report", "write one HTML file on runs: curves, baselines, what repeats them"),
    "export": ("fewshot_jax.cli.export", "write a run's model as a Hugging Face directory"),
    "data": ("fewshot_jax.cli.data", "list, validate and preview data"),
    "models": ("fewshot_jax.cli.models", "list, describe and fetch pretrained models"),
    "env": ("fewshot_jax.cli.env", "print versions, devices and the compilation cache"),
    "completion": ("fewshot_jax.cli.completion", "print a script that completes commands in bash, zsh or fish"),
}


def usage() -> str:
    """The text of ``--help``."""
    lines = [f"  {name:10s} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fewshot-jax COMMAND ...",
            "",
            "Turn language models into few-shot learners.",
            "",
            "commands:",
            *lines,
            "",
            "'fewshot-jax COMMAND --help' explains a command.",
            example_of("train"),
        ]
    )


def use_compilation_cache() -> str:
    """Keep compiled programs between processes, unless the user has set a place for them."""
    import jax

    directory = jax.config.values["jax_compilation_cache_dir"]
    if not directory:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = str(base / "fewshot_jax" / "xla")
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return directory


def interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does: as usual, but not inside jax's callback of the garbage collector, where it would be lost.

    Python ignores what is raised there; so the signal comes again a moment later.
    """
    if frame is not None and frame.f_code.co_name == "_xla_gc_callback":
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
        return
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Handle Ctrl-C by `interrupt`, where it is handled as Python does by itself."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0: done. 2: the user's mistake, one message on stderr. 75: told to end (SIGTERM), saved, can go on.
    130: interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("fewshot-jax"))
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"error: unknown command '{name}'; {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch is no news here
    try:
        with interruptible(), plain_notes():
            use_compilation_cache()
            importlib.import_module(COMMANDS[name][0]).run(arguments[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Terminated as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        return TERMINATED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that vanished: the message names the path
        full = error.errno in FULL
        print(f"error: {cannot_write(Path(error.filename or 'stdout'), error) if full else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0

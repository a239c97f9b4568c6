"""Several processes of one study on this machine."""

import multiprocessing
import sys

from fewshot_jax.atomic_write import full_disk
from fewshot_jax.errors import Terminated, UserError
from fewshot_jax.notes import plain_notes
from fewshot_jax.runs.interruption import termination
from fewshot_jax.search.trial_loop import Search, work

_ASK_EVERY = 0.5  # seconds


def work_together(search: Search, workers: int) -> None:
    """Take trials in so many new processes, until there are enough.

    Raises:
        UserError: a process ended early; the others have done its share, but for the trial that it was at.
        Terminated: this process was told to end, and so it told the others.
    """
    import jax

    cache = jax.config.values["jax_compilation_cache_dir"]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_worker, args=(search, cache), name=f"worker {i}") for i in range(workers)]
    try:
        with termination() as asked_to_end:
            for process in processes:
                process.start()
            while any(process.is_alive() for process in processes):
                if asked_to_end():
                    raise Terminated(f"{search.directory}: told to end")
                for process in processes:
                    process.join(_ASK_EVERY / workers)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()  # it saves its run first
        for process in processes:
            if process.pid is not None:
                process.join()
    if ended := [f"{process.name} with code {process.exitcode}" for process in processes if process.exitcode]:
        raise UserError(f"{search.directory}: {', '.join(ended)} ended early; the same command goes on")


def _worker(search: Search, cache: str | None) -> None:
    import jax

    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
    try:
        with full_disk(search.directory, "--study"), plain_notes():
            work(search)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Terminated:
        sys.exit(75)
    except KeyboardInterrupt:
        sys.exit(130)

"""Several processes of one run (`accelerate launch`): who speaks, who writes, and what happens when one of them ends."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from distill.basics.terminal import printable

if TYPE_CHECKING:
    import torch

# of a collective operation whose other side is gone: gloo, NCCL, the store
_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "remote process exited",
    "Timed out waiting",
    "NCCL communicator was aborted",
)
ENDED = (
    "Another process of this run has ended, so this one stops too; its own message, if it could leave one, stands above. What "
    "was saved is whole: the same command goes on from the last checkpoint."
)


def count() -> int:
    """Processes of this run."""
    distributed = _met()
    return int(distributed.get_world_size()) if distributed else 1


def meet() -> bool:
    """Whether a launcher started several processes; they have met then, and each has its device."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())
    return count() > 1


def is_main() -> bool:
    """Whether this is the first process, which speaks and writes."""
    return rank() == 0


def rank() -> int:
    """Number of this process, from 0; also before the processes have met.

    Before they have, a launcher's variables tell. RANK alone does not: a cluster may set it for a job of one process, which would
    then wait for a first one that is not there, or say nothing.
    """
    if distributed := _met():
        return int(distributed.get_rank())
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def _met() -> Any:
    """torch's module of processes where they have met; who has not loaded torch has met nobody, and need not load it to know."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def say(*values: Any) -> None:
    """Print, in the first process only: or every line would stand there as often as there are processes.

    What recipes and this package tell people goes through here. `print` itself is left as it is: a user's own line in another
    process is meant.
    """
    if is_main():
        print(*(printable(str(value)) for value in values), flush=True)


def tell(sentence: str) -> None:
    """As `say`, to standard error and beside a progress bar: what a user should know and no output is."""
    if is_main():
        tqdm.write(printable(sentence), file=sys.stderr)


def only_the_first_speaks() -> None:
    """In all processes but the first, this package logs errors only, and no bars of progress are drawn."""
    if is_main():
        return
    logging.getLogger("distill").setLevel(logging.ERROR)
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils.logging import disable_progress_bar as disable_bars_of_loading

    disable_progress_bar()
    disable_bars_of_loading()


@contextmanager
def first_then_others() -> Iterator[None]:
    """The block runs in the first process, and when that has ended in the others, who then find ready what it made.

    The others wait as long as it takes (a teacher's answers may take hours, and the usual time limit of a barrier is half an
    hour), but not for a process that is gone.

    Raises:
        RuntimeError: in the others: the first has ended.
    """
    if count() == 1:
        yield
        return
    from torch import distributed

    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    try:
        if not is_main():
            distributed.barrier(group=group)
        yield
        if is_main():
            distributed.barrier(group=group)
        distributed.barrier(group=group)
    finally:
        distributed.destroy_process_group(group)


def from_all(value: Any) -> list[Any]:
    """The value of every process, in their order; waits as long as it takes (see `first_then_others`). Plain values."""
    if count() == 1:
        return [value]
    from torch import distributed

    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    try:
        found: list[Any] = [None] * count()
        distributed.all_gather_object(found, value, group=group)
        return found
    finally:
        distributed.destroy_process_group(group)


def wait_for_all() -> None:
    """Until every process is here; within the run's usual time limit."""
    if count() > 1:
        _met().barrier()


def any_of_them(flag: bool, device: "torch.device") -> bool:
    """Whether the flag is set in any process; every process must ask."""
    if count() == 1:
        return flag
    import torch

    found = torch.tensor([float(flag)], device=device)
    torch.distributed.all_reduce(found)
    return bool(found.item() > 0)


def other_has_ended(error: BaseException) -> bool:
    """Whether an error only says that another process of this run is gone."""
    return count() > 1 and isinstance(error, RuntimeError) and any(words in str(error) for words in _GONE)


def let_the_first_speak() -> None:
    """Before an error is told: what is wrong in every process is told by the first, and the launcher then ends the others."""
    if not is_main():
        time.sleep(5)

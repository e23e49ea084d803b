"""A process that has imported everything and forks one child for each life of a run that is killed again and again.

So every kill falls into the run itself and none into the seconds of importing. Used by `killing.py` and `kill_training.py`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


class Nursery:
    """The process that forks; `script` calls `serve` when it is run with these arguments."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._child: int | None = None

    def start(self, *words: object) -> None:
        """Begin a life; returns when it is about to do its work."""
        self._say("\t".join(map(str, words)))
        self._child = self._hear()

    def alive(self) -> bool:
        """Whether the life goes on; one that has ended waits to be asked."""
        return Path(f"/proc/{self._child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def kill(self) -> None:
        """By its id, with a signal that nothing can catch."""
        assert self._child
        os.kill(self._child, signal.SIGKILL)
        self.ended()

    def ended(self) -> int:
        """Wait for the life's end; its status, negative for a signal."""
        self._say("wait")
        return self._hear()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def _hear(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def serve(life: Callable[..., None]) -> None:
    """The nursery's own main: for each line that is read, fork, tell the id, and report the end when asked."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a life prints is not for the pipe
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            life(*line.rstrip("\n").split("\t"))
            os._exit(0)
        os.write(out, f"{child}\n".encode())
        sys.stdin.readline()
        os.write(out, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())

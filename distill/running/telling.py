"""Errors told in one sentence: what a user can mend ends a recipe without a traceback."""

import errno
import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from distill.basics import processes
from distill.basics.terminal import printable

TRY_AGAIN = 75
known_flags: set[str] = set()  # names of this run's flags, for errors of the library, which speaks of parameters


def one_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a recipe's main: what a user can mend is told in one sentence, without a traceback.

    Exit status 1 for an error, 130 for Ctrl-C, 75 (`EX_TEMPFAIL` of sysexits.h) for what may pass by itself: a server that does
    not answer, or asks to wait. A `ValueError` of this package, a full disk and a missing permission are
    such things; anything else is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except KeyboardInterrupt:
            processes.let_the_first_speak()
            _end("Stopped. What is finished is saved; the same command goes on from there.", 130)
        except ValueError as error:
            processes.let_the_first_speak()
            _end(f"Error: {as_flags(str(error))}", TRY_AGAIN if getattr(error, "passing", False) else 1)
        except FloatingPointError as error:
            _end(f"Error: {error} Lower --learning_rate, or look at the pairs of that step.", 1)
        except Exception as error:
            if _is_disk_full(error):
                _end(f"Error: {error}. Free some space and give the same command again; it goes on from there.", 1)
            if processes.other_has_ended(error):
                _end(f"Error: {processes.ENDED}", 1)
            if not isinstance(error, OSError):
                raise
            _end(f"Error: {error}.", 1)

    return wrapped


def as_flags(sentence: str) -> str:
    """A sentence of the library in a user's words: a parameter that is a flag of this run is named as one.

    A name of several words wherever it stands by itself; one that is a usual word only where a sentence begins with it ("k is 0").

    Example:
        >>> known_flags.update(("max_length", "k"))
        >>> as_flags("max_length is 0; k is 7, and max_length=9 is no flag.")
        '--max_length is 0; --k is 7, and max_length=9 is no flag.'
    """
    several = "|".join(sorted((re.escape(name) for name in known_flags if "_" in name), key=len, reverse=True))
    single = "|".join(sorted((re.escape(name) for name in known_flags if "_" not in name), key=len, reverse=True))
    if several:
        sentence = re.sub(rf"(?<![\w\-./'\"`=(])({several})(?![\w\-/'\"`=(])(?!\.\w)", r"--\1", sentence)
    if single:
        sentence = re.sub(rf"(?:(?<=^)|(?<=[.;:] ))({single})(?= is (?!a |an |the |no |not ))", r"--\1", sentence)
    return sentence


def _end(sentence: str, status: int) -> None:
    print(f"\n{printable(sentence)}", file=sys.stderr, flush=True)
    raise SystemExit(status)


def _is_disk_full(error: Exception) -> bool:
    """safetensors and torch.save report a full disk in exceptions of their own, without an errno."""
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or any(
        words in str(error) for words in ("No space left on device", "PytorchStreamWriter failed", "unexpected pos")
    )

"""Find a model by any name (an embedded one, a local folder, a Hub id) and load its tokenizer, without torch."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.models.embedded import EMBEDDED, fetch_embedded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve_model(name: str | os.PathLike[str], *, weights: bool = True) -> str:
    """What `from_pretrained` should be given for `name`.

    Args:
        name: an embedded model (`"smollm2-135m"`), a local folder, or a Hub id.
        weights: they will be read, too: those of an embedded model are looked through for damage.

    Raises:
        ValueError: a local folder without config or without safetensors weights; an embedded model that cannot be had.
    """
    text = os.fspath(name)
    if text in EMBEDDED and not Path(text).is_dir():
        return str(fetch_embedded(text, weights=weights))
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is not a model folder: it has no config.json.")
        if not any(folder.glob("*.safetensors")):
            pickled = [path.name for path in folder.glob("*.bin")]
            found = f" ({pickled[0]} is a pickle, which is not loaded; convert it to safetensors)" if pickled else ""
            raise ValueError(f"{folder} has a config.json but no weights: no *.safetensors file{found}.")
        return str(folder)
    if folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise ValueError(f"No folder {text}; give an existing model folder, a Hub id, or one of: {embedded_names()}.")
    return text


def load_tokenizer(name: str | os.PathLike[str], **kwargs: Any) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, by any name `resolve_model` takes, or of a folder with a tokenizer alone; errors as there."""
    folder = Path(os.fspath(name)).expanduser()
    if not folder.is_dir() and os.fspath(name) in EMBEDDED:
        # what `AutoTokenizer` would find, without the second that it takes to choose
        from transformers import PreTrainedTokenizerFast

        return from_pretrained(PreTrainedTokenizerFast, name, resolve_model(name, weights=False), **kwargs)
    from transformers import AutoTokenizer

    if (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(folder), **kwargs)
    return from_pretrained(AutoTokenizer, name, resolve_model(name, weights=False), **kwargs)


def from_pretrained(a_class: Any, name: str | os.PathLike[str], source: str, **kwargs: Any) -> Any:
    """`a_class.from_pretrained(source, **kwargs)`, its errors as sentences about `name`.

    Raises:
        ValueError: it is not there, or its weights are damaged.
    """
    from safetensors import SafetensorError

    try:
        return a_class.from_pretrained(source, **kwargs)
    except SafetensorError as error:
        raise ValueError(f"The weights of {os.fspath(name)!r} are damaged ({error}); fetch them again.") from error
    except OSError as error:  # transformers' word for: not on the Hub, no access, no connection, no such file
        first = str(error).strip().splitlines()[0]
        if Path(source).is_dir():
            raise ValueError(f"Could not load {os.fspath(name)!r}: {first}") from error
        raise ValueError(
            f"Could not load {os.fspath(name)!r}: {first} It is not a local folder either; "
            f"available without a Hub connection: {embedded_names()}."
        ) from error


def embedded_names() -> str:
    """Names that need no connection, for messages."""
    return ", ".join(EMBEDDED)

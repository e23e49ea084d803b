"""Find and load a model by any name: an embedded one, a local folder, a Hub id."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.models.embedded import EMBEDDED, fetch_embedded


def resolve_model(name: str | os.PathLike[str]) -> str:
    """What `from_pretrained` should be given for `name`.

    Args:
        name: an embedded model (`"smollm2-135m"`), a local folder, or a Hub id.

    Raises:
        ValueError: a local folder without config or without safetensors weights; an embedded model that cannot be had.
    """
    text = os.fspath(name)
    if text in EMBEDDED and not Path(text).is_dir():
        return str(fetch_embedded(text))
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
        raise ValueError(f"No folder {text}; give an existing model folder, a Hub id, or one of: {_embedded_names()}.")
    return text


def load_tokenizer(name: str | os.PathLike[str], **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by any name `resolve_model` takes, or of a folder with a tokenizer alone; errors as there."""
    folder = Path(os.fspath(name)).expanduser()
    if (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(folder), **kwargs)
    return _from_pretrained(AutoTokenizer, name, **kwargs)


def load_model(name: str | os.PathLike[str], dtype: torch.dtype | str = "auto", **kwargs: Any) -> PreTrainedModel:
    """A causal language model in evaluation mode, by any name `resolve_model` takes.

    Args:
        name: an embedded model, a local folder, or a Hub id.
        dtype: of the weights; `"auto"` keeps the stored one.
        kwargs: passed on to `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: there is no such model, it has no safetensors weights, or it is not a causal language model.
    """
    return _from_pretrained(AutoModelForCausalLM, name, dtype=dtype, use_safetensors=True, **kwargs).eval()


def fast_dtype() -> torch.dtype:
    """bfloat16 where the machine multiplies it fast, float32 elsewhere.

    With AVX512-BF16 (or AMX) a CPU runs bfloat16 3-4 times faster than float32; without, it is slower.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if supported else torch.float32


def weights_fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """64 values of every tensor: enough to tell two models apart, without reading all of their weights.

    Of a tensor that is sharded, the part of this process; of one without data, its shape.
    """
    parts = []
    for name, tensor in tensors:
        # slicing a sharded one would talk to other processes
        own: Any = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        flat = own.detach().reshape(-1)
        picked = flat[:: max(1, flat.numel() // 64)][:64]
        parts.append((name, list(tensor.shape), [] if own.is_meta else picked.float().cpu().tolist()))
    return fingerprint(parts)


def _from_pretrained(auto_class: Any, name: str | os.PathLike[str], **kwargs: Any) -> Any:
    source = resolve_model(name)
    try:
        return auto_class.from_pretrained(source, **kwargs)
    except SafetensorError as error:
        raise ValueError(f"The weights of {os.fspath(name)!r} are damaged ({error}); fetch them again.") from error
    except OSError as error:  # transformers' word for: not on the Hub, no access, no connection, no such file
        first = str(error).strip().splitlines()[0]
        if Path(source).is_dir():
            raise ValueError(f"Could not load {os.fspath(name)!r}: {first}") from error
        raise ValueError(
            f"Could not load {os.fspath(name)!r}: {first} It is not a local folder either; "
            f"available without a Hub connection: {_embedded_names()}."
        ) from error


def _embedded_names() -> str:
    return ", ".join(EMBEDDED)

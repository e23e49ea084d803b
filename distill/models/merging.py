"""An adapter and its base made one plain model in a folder of its own, which any program loads."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.models.adapters import base_name, base_of, is_adapter_folder, load_adapted, merged, tokenizer_place
from distill.models.load import load_model
from distill.models.quantising import is_quantised
from distill.models.tokenizer import load_tokenizer

_ROWS, _LENGTH = 4, 32  # random tokens on which the merged model is held against the unmerged


@dataclass(frozen=True)
class MergeCheck:
    """The merged model beside the unmerged one, on the same random tokens.

    Args:
        places: next-token distributions that were compared.
        same_top: how many of them have the same likeliest token.
        largest: largest difference of two logits.
        spread: standard deviation of the unmerged model's logits, to judge `largest` by.
    """

    places: int
    same_top: int
    largest: float
    spread: float

    def __str__(self) -> str:
        return (
            f"merged beside unmerged: the same likeliest token at {self.same_top} of {self.places} places, largest difference of "
            f"logits {self.largest:.2g} (their standard deviation: {self.spread:.2g})"
        )


def export_merged(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str = "auto",
) -> MergeCheck:
    """Merge an adapter into its base and save model, tokenizer, chat template and generation config in a new folder.

    A merged weight is W + scale * B A, rounded once more to the base's precision, so logits differ by that rounding; how much is
    measured and returned. An adapter that was trained on a base of 4 bits is merged into the base as it was published.

    Args:
        folder: with an adapter alone.
        output: a folder that is not there yet.
        base: the model below it, by any name; None: the one that the folder names.
        dtype: of the base while it is merged, and of what is saved; `"auto"`: as it is stored.

    Raises:
        ValueError: the folder holds no adapter or its base cannot be had; the output exists; a base of 8 or 4 bits, whose weights cannot
            take an update without loss; an adapter that is no change of weights (a prompt of virtual tokens).

    Example:
        >>> print(export_merged("runs/mine/student/adapter", "runs/mine/merged"))
    """
    target = Path(output)
    if not is_adapter_folder(folder):
        raise ValueError(
            f"{os.fspath(folder)} holds no adapter alone, so there is nothing to merge: a whole model is ready as it is."
        )
    if target.exists():
        raise ValueError(f"{target} exists already; give a new folder, or remove it first.")
    model = load_adapted(folder, base, dtype=dtype)
    if is_quantised(base_of(model)):
        raise ValueError(
            f"The base {os.fspath(base or base_name(folder) or '')!r} has weights of few bits, and an adapter cannot be merged into them without loss; give "
            "the model it was made from with base (--base)."
        )
    if not hasattr(model, "merge_and_unload") or not hasattr(model.base_model, "merge_and_unload"):
        raise ValueError(
            f"The adapter in {os.fspath(folder)} is no change of weights ({model.peft_type}), so it cannot be merged."
        )
    tokenizer = load_tokenizer(tokenizer_place(folder, base))
    ids = torch.randint(
        0, base_of(model).config.vocab_size, (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0)
    )
    before = _logits(model, ids)
    plain = merged(model)
    after = _logits(plain, ids)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        plain.save_pretrained(part)
        tokenizer.save_pretrained(part)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    same = int((before.argmax(-1) == after.argmax(-1)).sum())
    return MergeCheck(ids.numel(), same, float((before - after).abs().max()), float(before.std()))


def whole_student(name: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> tuple[Any, Any]:
    """A plain model as it is stored, and its tokenizer, by any name; an adapter alone is merged into its base. Errors as loading them.

    Args:
        name: a folder (with an adapter alone, too), an embedded model, or a Hub id.
        base: the model below an adapter; None: the one that its folder names.

    Raises:
        ValueError: also where a base is given and the model is whole.
    """
    if not is_adapter_folder(name):
        if base is not None:
            raise ValueError(
                f"base is {os.fspath(base)!r}, which belongs below an adapter, and {os.fspath(name)!r} is a whole model; leave it out."
            )
        return load_model(name), load_tokenizer(name)
    return merged(load_adapted(name, base, dtype="auto")), load_tokenizer(tokenizer_place(name, base))


@torch.inference_mode()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """`[B, T, V]` in float32."""
    logits: torch.Tensor = model(input_ids=ids).logits
    return logits.float()

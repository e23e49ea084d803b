"""Saving tried before the first step: a config that cannot be written would end a training at its first checkpoint."""

import copy
import tempfile
from typing import Any

from distill.basics.processes import is_main, say


def check_can_be_saved(model: Any) -> None:
    """Mend or refuse what `transformers` would refuse to write beside the weights.

    Published generation configs hold values for sampling (temperature, top-p) without `do_sample`. They are written back as they
    were loaded; but Trainer puts the tokenizer's ids into them, and a changed one is looked at strictly, after the first
    steps are done. Their values are for sampling, so `do_sample` is set; this is said.

    Args:
        model: the student, with or without an adapter.

    Raises:
        ValueError: a config that cannot be written and is not mended by that.
    """
    generation = getattr(model, "generation_config", None)
    if generation is not None and _trouble_with(generation):
        mended = copy.deepcopy(generation)
        mended.do_sample = True
        if trouble := _trouble_with(mended):
            raise ValueError(
                f"The model's generation_config cannot be saved, so no checkpoint could be: {trouble} Mend it before the "
                "training: model.generation_config = transformers.GenerationConfig(eos_token_id=...)."
            )
        generation.do_sample = True
        say(
            "The model's generation_config has values for sampling and no do_sample; do_sample=True is set, so that it can be saved."
        )
    config: Any = getattr(model, "config", None)
    if hasattr(config, "save_pretrained") and is_main():
        with tempfile.TemporaryDirectory() as folder:
            try:
                config.save_pretrained(folder)
            except (ValueError, TypeError) as error:
                raise ValueError(f"The model's config cannot be saved, so no checkpoint could be: {error}") from None


def _trouble_with(generation: Any) -> str | None:
    try:
        generation.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None

"""Saving tried before the first step: a config that cannot be written would end a training at its first checkpoint."""

import copy
import tempfile
from typing import Any

from distill.basics.processes import say

# what is used in sampling alone, and the value that is as good as none
SAMPLING = {
    "temperature": 1.0, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0, "top_k": 50, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip


def check_can_be_saved(model: Any) -> None:
    """Mend or refuse what `transformers` would refuse to write beside the weights.

    Published generation configs hold values for sampling (temperature, top-p) without `do_sample`. They are written back as they
    were loaded; but Trainer puts the tokenizer's ids into them, and a changed one is looked at strictly, after the first
    steps are done. Without `do_sample` these values are not used: they are taken out, and named, and the model decodes as it did.

    Args:
        model: the student, with or without an adapter.

    Raises:
        ValueError: a config that cannot be written and is not mended by that.
    """
    generation = getattr(model, "generation_config", None)
    if generation is not None and _trouble_with(generation):
        mended = copy.deepcopy(generation)
        unused = {
            name: value
            for name, neutral in SAMPLING.items()
            if mended.do_sample is not True and (value := getattr(mended, name, None)) not in (None, neutral)
        }
        for name in unused:
            setattr(mended, name, None)
        if trouble := _trouble_with(mended):
            raise ValueError(
                f"The model's generation_config cannot be saved, so no checkpoint could be: {trouble} Mend it before the "
                "training: model.generation_config = transformers.GenerationConfig(eos_token_id=...)."
            )
        for name in unused:
            setattr(generation, name, None)
        say(
            f"The model's generation_config has values for sampling and no do_sample ({', '.join(f'{n}={v}' for n, v in unused.items())}); "
            "they are taken out, so that it can be saved. To keep them, set model.generation_config.do_sample = True."
        )
    config: Any = getattr(model, "config", None)
    if hasattr(config, "save_pretrained"):  # tried in every process: one that raised alone would be waited for
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

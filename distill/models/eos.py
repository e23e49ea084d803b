"""EOS: which tokens end a completion."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.text.encode import turn_end_id


def eos_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Those of the model's generation config (if there is a model, and one), the tokenizer's EOS, and what ends a turn of its chat."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return {int(i) for i in (*listed, tokenizer.eos_token_id, turn_end_id(tokenizer)) if i is not None}

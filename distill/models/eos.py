"""EOS: which tokens end a completion."""

from typing import Any

from transformers import PreTrainedTokenizerBase


def eos_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Those of the model's generation config (if there is a model, and one) and the tokenizer's EOS."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return {int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None}

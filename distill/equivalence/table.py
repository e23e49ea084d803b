"""A language model that is a table: one row of logits for the last letters. Its parameters can be counted."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput


class TableConfig(PreTrainedConfig):
    """`order`: how many letters back the model looks (0, 1 or 2)."""

    model_type = "distill_table"

    def __init__(self, vocab_size: int = 8, order: int = 2, **kwargs: Any) -> None:
        super().__init__(**{"tie_word_embeddings": False, **kwargs})
        self.vocab_size, self.order = vocab_size, order


class TableForCausalLM(PreTrainedModel, GenerationMixin):
    """Next-token logits are looked up in `lm_head.weight[:, context]`. Works in both trainers and in `generate`."""

    config: TableConfig
    config_class = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.vocab_size**config.order, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def with_order(cls, vocabulary: int, order: int) -> "TableForCausalLM":
        """A table over `vocabulary` tokens that looks `order` letters back."""
        return cls(TableConfig(vocab_size=vocabulary, order=order, eos_token_id=0, pad_token_id=0, bos_token_id=0))

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_input_embeddings(self) -> nn.Module:
        return self.lm_head

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # there are no layers, so there is nothing to keep

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}

    def contexts(self, input_ids: Tensor) -> Tensor:
        """Which row of the table `[B, T]` positions look at."""
        size, order = self.config.vocab_size, self.config.order
        before = torch.cat([input_ids[:, :1], input_ids[:, :-1]], dim=1)
        if order == 0:
            return torch.zeros_like(input_ids)
        return input_ids if order == 1 else before * size + input_ids

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """As other causal language models; `logits_to_keep` may be a mask `[B, T]`. Padding needs no mask here."""
        contexts = self.contexts(input_ids)
        if isinstance(logits_to_keep, Tensor):
            contexts = contexts[logits_to_keep]
        logits = nn.functional.embedding(contexts, self.lm_head.weight.t())
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)

"""Models with weights of 8 or 4 bits, through the quantisers of `transformers`."""

import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available


def in_bits(bits: int) -> BitsAndBytesConfig:
    """The setting with which `from_pretrained(quantization_config=...)` rounds the linear layers while it loads a model.

    Embeddings, norms and head keep their precision, so the white box streams the head as ever. It works on a CPU too; there
    4 bits need linear layers whose outputs are a multiple of 32, which all but toy models have.

    Args:
        bits: 8 (LLM.int8), or 4 (NormalFloat, double quantisation, bfloat16 products).

    Raises:
        ValueError: another number of bits; bitsandbytes is not installed.

    Source: LLM.int8 (Dettmers et al. 2022), QLoRA (Dettmers et al. 2023).

    Example:
        >>> LocalTeacher("my/large-model", quantization_config=in_bits(4))
    """
    if bits not in (4, 8):
        raise ValueError(f"Weights can be loaded in 4 or 8 bits, not in {bits}.")
    if not is_bitsandbytes_available():
        raise ValueError("Weights of 4 or 8 bits need the package bitsandbytes: pip install 'distill[quantised]'.")
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if not any(isinstance(filter, _Once) for filter in logger.filters):
        logger.addFilter(_Once())
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


class _Once(logging.Filter):
    """bitsandbytes says in every layer of every forward pass that it casts its inputs; once is enough."""

    def __init__(self) -> None:
        super().__init__()
        self.said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "inputs will be cast" not in str(record.msg):
            return True
        first, self.said = not self.said, True
        return first


def is_quantised(model: Any) -> bool:
    """Whether a quantiser of `transformers` has made the model's weights."""
    return bool(getattr(model, "is_quantized", False))


def is_dispatched(model: Any) -> bool:
    """Whether `device_map` has spread the model over several devices (or offloaded parts of it), with accelerate's hooks."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def check_student_keeps_gradients(model: Any, device: torch.device) -> None:
    """Refuse a student on 4-bit weights where bitsandbytes would lose its gradients without a word.

    On a CPU with AVX512-BF16 the first forward pass in evaluation mode packs the weights for a kernel that has no backward
    pass, and every later step goes through it: an adapter before such a layer gets no gradient any more.

    Raises:
        ValueError: such a student, on such a CPU.
    """
    if device.type == "cpu" and any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules()):
        raise ValueError(
            "The student's weights have 4 bits, and on this CPU bitsandbytes loses the gradient through them after the first "
            "evaluation. Load the student in 8 bits (quantization_config=in_bits(8)) or whole, or train on a GPU."
        )

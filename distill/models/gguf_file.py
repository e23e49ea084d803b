"""A model as one GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio, ...)."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import PreTrainedTokenizerBase

from distill.models.forms import PRECISIONS
from distill.models.gguf_architectures import architecture_of, tensors_of, write_settings
from distill.models.gguf_tokens import gguf_tokens
from distill.models.quantising import is_quantised


@dataclass
class GgufFacts:
    """What was written: architecture, precision, its size in bytes, and in sentences what readers will do otherwise."""

    architecture: str
    precision: str
    bytes: int
    notes: list[str] = field(default_factory=list)


def check_precision(precision: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        ValueError: it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")


def write_gguf(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    output: str | os.PathLike[str],
    precision: str = "auto",
    name: str | None = None,
    license: str | None = None,
) -> GgufFacts:
    """Write a model and its tokenizer as a GGUF file; replaces nothing that exists, and appears whole.

    Matrices have the precision that is asked for, vectors (norms, biases) always float32. A matrix whose rows are no multiple of 32
    long cannot be of 8 bits; it has 16, and a note says so.

    Args:
        model: a plain causal language model, in any float precision.
        tokenizer: its own.
        output: the file, `.gguf`.
        precision: `"f32"`, `"f16"`, `"bf16"`, `"q8_0"` (8 bits, a scale for each 32 weights), or `"auto"`: bf16 for a model in bfloat16, else f16.
        name: of the model, for people.
        license: as its card says it.

    Raises:
        ValueError: an architecture, a setting, a tokenizer that is not written here; a path that exists; weights of few bits; weights too large for
            f16; the package gguf is missing.

    Source: GGUF, llama.cpp (Gerganov et al. 2023).

    Example:
        >>> teacher = LocalTeacher("smollm2-135m")
        >>> write_gguf(teacher.model, teacher.tokenizer, "smollm2.gguf", "q8_0").architecture
        'llama'
    """
    try:
        import gguf
    except ImportError:
        raise ValueError("Writing GGUF needs the package gguf: pip install 'distill[demo]'.") from None
    target = Path(output)
    check_precision(precision)
    if target.suffix != ".gguf":
        raise ValueError(f"{target} is to be a GGUF file; give a name that ends with .gguf.")
    if target.exists():
        raise ValueError(f"{target} exists already; give a new name, or remove it first.")
    if is_quantised(model):
        raise ValueError(
            "The model's weights are of few bits already, and rounding them again loses more; export the model they were made from."
        )
    if precision == "auto":
        precision = "bf16" if model.dtype == torch.bfloat16 else "f16"
    architecture = architecture_of(model)
    rows = model.get_input_embeddings().weight.shape[0]
    tokens, tensors = gguf_tokens(tokenizer, rows), tensors_of(model, architecture)
    facts = GgufFacts(architecture, precision, 0, list(tokens.notes))
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    writer = gguf.GGUFWriter(part, architecture)
    try:
        writer.add_name(name or Path(model.config.name_or_path or "student").name)
        if license:
            writer.add_license(license)
        write_settings(writer, model.config, architecture, rows)
        writer.add_file_type(int(_FILE_TYPES[precision]))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        tokens.write(writer)
        kinds = {}
        for known, make in tensors.items():
            shape = tuple(make().shape)
            kind = kinds[known] = _kind(shape, precision)
            if precision == "q8_0" and len(shape) > 1 and kind != gguf.GGMLQuantizationType.Q8_0:
                facts.notes.append(f"{known} has rows of {shape[-1]}, no multiple of 32, and 16 bits")
            stored = gguf.quant_shape_to_byte_shape(shape, kind)
            size = int(torch.tensor(stored).prod())
            writer.add_tensor_info(known, shape, numpy.dtype("float32"), size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for known, make in tensors.items():
            writer.write_tensor_data(_stored(known, make(), kinds[known]))
        writer.close()
        os.replace(part, target)
    finally:
        writer.close()
        part.unlink(missing_ok=True)
    facts.bytes = target.stat().st_size
    return facts


# numbers of llama.cpp's LLAMA_FTYPE
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}


def _kind(shape: tuple[int, ...], precision: str) -> Any:
    from gguf import GGMLQuantizationType as Kind

    if len(shape) == 1 or precision == "f32":
        return Kind.F32
    if precision == "q8_0":
        return Kind.Q8_0 if shape[-1] % 32 == 0 else Kind.F16
    return Kind.BF16 if precision == "bf16" else Kind.F16


def _stored(name: str, weight: torch.Tensor, kind: Any) -> Any:
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    if kind == Kind.F16 and not bool((weight.abs() <= torch.finfo(torch.float16).max).all()):
        raise ValueError(f"{name} has weights that float16 cannot hold; take --precision bf16, or f32.")
    return quants.quantize(weight.contiguous().cpu().numpy(), kind)

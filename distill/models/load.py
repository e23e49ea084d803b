"""Load a model by any name (how it is found, and its tokenizer: `tokenizer`)."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.models.embedded import EMBEDDED, cache_folder
from distill.models.tokenizer import from_pretrained, load_tokenizer, resolve_model

__all__ = ["fast_dtype", "load_model", "load_tokenizer", "resolve_model", "weights_fingerprint"]

# of a config, what training itself sets in a student's, and names of places and versions
UNSTABLE = ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_name_or_path")

# and what decides no logits of a model in evaluation, or is told otherwise: its class, its precision, how it is quantised
_NO_LOGITS = re.compile(
    r"dropout|_pdrop|layerdrop|drop_rate|initializer|^init_(std|device|method)|^output_(attentions|hidden_states|router_logits|scores)$|aux_loss|^dtype$|^torch_dtype$|^architectures$|^quantization_config|^auto_map|"
    r"^transformers_weights$|^id2label|^label2id|^num_labels$|^problem_type$|^finetuning_task$|^task_specific_params|^return_dict|^pretraining_tp$|"
    r"_attn_implementation|^attn_implementation|^_commit_hash$|^name_or_path$|^tokenizer_class$|_token_id$"
)


def config_of_logits(config: Mapping[str, Any]) -> dict[str, str]:
    """Of a config as its file has it, what may decide logits: `"part.field"` to its value as JSON."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if name in UNSTABLE or _NO_LOGITS.search(name):
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}.{part}": text for part, text in config_of_logits(value).items()}
        else:
            found[name] = json.dumps(value)
    return found


def config_as_written(config: PreTrainedConfig) -> dict[str, Any]:
    """What the file of a config would hold."""
    written: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return written


def config_fingerprint(config: PreTrainedConfig) -> str:
    """One short name for all of a config that may decide logits."""
    return fingerprint(sorted(config_of_logits(config_as_written(config)).items()))


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The tokenizer that lies where a loaded model says that it came from; None if there is none, or the model does not say.

    Nobody asked for it, so nothing is fetched, no code of a model's author is run, and nobody is asked whether it may.
    """
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        return None
    if name in EMBEDDED and not Path(name).is_dir():
        name = str(cache_folder() / name)  # by its name it would be fetched
    try:
        return load_tokenizer(name, local_files_only=True, trust_remote_code=False)
    except Exception:  # whatever lies in its place: there is another way to say which tokenizer it is
        return None


def load_model(name: str | os.PathLike[str], dtype: torch.dtype | str = "auto", **kwargs: Any) -> PreTrainedModel:
    """A causal language model in evaluation mode, by any name `resolve_model` takes.

    Args:
        name: an embedded model, a local folder, or a Hub id.
        dtype: of the weights; `"auto"` keeps the stored one.
        kwargs: passed on to `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ValueError: there is no such model, it has no safetensors weights, or it is not a causal language model.
    """
    source = resolve_model(name)
    return from_pretrained(AutoModelForCausalLM, name, source, dtype=dtype, use_safetensors=True, **kwargs).eval()


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

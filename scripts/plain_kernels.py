"""Stand-ins for kernels of flash and flex attention, which do not run on a CPU (or not backwards): plain attention, by autograd.

`transformers`' own code around them stays: it unpads, finds documents and hands windows, caps and sinks to a kernel. For
`scripts/architectures.py` and the tests of taps.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from transformers import masking_utils
from transformers import modeling_flash_attention_utils as flash_utils
from transformers.integrations import flash_attention as flash_integration
from transformers.integrations import flex_attention as flex_integration

FLASH, FLEX = "flash_attention_2", "flex_attention"


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: tuple[int, int], softcap: float, sinks: Tensor | None
) -> Tensor:
    """One document: `[T, H, d]`; causal, as flash attention defines its arguments."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], dim=1) for one in (k, v))
    scores = torch.einsum("thd,shd->hts", q, k) * scale
    scores = scores if not softcap else softcap * torch.tanh(scores / softcap)
    t, s = torch.arange(len(q))[:, None], torch.arange(len(k))[None]
    seen = (s <= t) & ((s >= t - window[0]) if window[0] >= 0 else True)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, len(q), 1)], -1)
    return torch.einsum("hts,shd->thd", scores.softmax(-1)[..., : len(k)], v)


def kernel(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = True,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, s_aux: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `flash_attn_func`, with sinks as some kernels of the Hub have them."""
    assert causal
    rows = zip(q, k, v, strict=True)
    return torch.stack([plain_attention(*row, softmax_scale, window_size, softcap, s_aux) for row in rows])


def varlen_kernel(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = True,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, s_aux: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `flash_attn_varlen_func`."""
    assert causal
    cuts = cu_seqlens_q.tolist()
    assert cuts == cu_seqlens_k.tolist()
    return torch.cat(
        [
            plain_attention(q[a:b], k[a:b], v[a:b], softmax_scale, window_size, softcap, s_aux)
            for a, b in itertools.pairwise(cuts)
        ]
    )


def load(implementation: str, *args: Any, **kwargs: Any) -> Any:
    """In the place of `lazy_import_flash_attention`; nothing else than the kernel's own name will do."""
    assert implementation == FLASH, f"transformers was told to load {implementation}"
    process = flash_utils._lazy_define_process_function(varlen_kernel)
    return (kernel, varlen_kernel, None, flash_utils._pad_input, flash_utils._unpad_input), (process, process)


@contextmanager
def plain_flash() -> Iterator[str]:
    """Within it `flash_attention_2` runs, in the model's own precision (float32 would be cast for a real one); yields the name."""
    with (
        mock.patch.object(flash_utils, "lazy_import_flash_attention", load),
        mock.patch.object(flash_integration, "get_target_dtype", return_value=None),
    ):
        yield FLASH


def flex(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Any, block_mask: Any, enable_gqa: bool, scale: float | None,
    **others: Any,
) -> Tensor:  # fmt: skip
    """As `flex_attention` is defined."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    scores = query @ key.transpose(2, 3) * scale
    b, h, t, s = (torch.arange(n).view([-1 if i == j else 1 for j in range(4)]) for i, n in enumerate(scores.shape))
    scores = score_mod(scores, b, h, t, s)
    seen = create_mask(block_mask.mask_mod, len(query), 1, query.shape[2], key.shape[2], device="cpu")
    return scores.masked_fill(~seen, -1e30).softmax(-1) * seen.any(-1, keepdim=True) @ value


def uncompiled(*args: Any, _compile: bool, **kwargs: Any) -> Any:
    """`create_block_mask`, whose compilation takes seconds for every shape on a CPU."""
    return create_block_mask(*args, **kwargs)


@contextmanager
def plain_flex() -> Iterator[str]:
    """Within it `flex_attention` runs, and backwards; yields the name."""
    with (
        mock.patch.object(flex_integration, "compile_friendly_flex_attention", flex),
        mock.patch.object(masking_utils, "create_block_mask", uncompiled),
    ):
        yield FLEX

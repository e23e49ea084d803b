"""A teacher that runs here, in this process."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import align_module_device
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.models.adapters import (
    active_adapters,
    base_of,
    is_adapted,
    is_adapter_folder,
    load_adapted,
    tokenizer_place,
)
from distill.models.eos import eos_ids
from distill.models.evaluating import evaluating
from distill.models.generating import left_padded, own_generation_config, up_to_end
from distill.models.load import fast_dtype, load_model, load_tokenizer, weights_fingerprint
from distill.models.positions import positions_of
from distill.models.quantising import is_dispatched, is_quantised
from distill.teachers.base import Completion, Refusal, Sampling
from distill.teachers.endpoint import checked_url
from distill.text.dates import day_settings
from distill.text.encode import Prompt, as_prompt, encode_prompt


class LocalTeacher:
    """A causal language model of `transformers`, used for generation and for its inside.

    Args:
        model: a name (`"smollm2-135m"`, a folder, a folder with an adapter alone, a Hub id), or a loaded model; it may have an
            adapter (`peft.PeftModel`) or be compiled.
        tokenizer: needed with a loaded model; loaded by name otherwise.
        dtype: of the weights when loaded by name; by default bfloat16 where the machine is fast at it.
        quantization_config: when loaded by name, one of `transformers`' quantisers, e.g. `distill.models.quantising.in_bits(4)`.
        device_map: when loaded by name, as `from_pretrained` takes it: `"auto"` spreads a teacher over the GPUs that are there.
        chat: `None` asks a bare string as one user turn if there is a chat template; `False` never; `True` always.
        base: the model below an adapter, by any name, where the adapter's folder does not say so, or says a name that is not found.
        name: what pairs are labelled with; by default the model's name.

    Raises:
        ValueError: no such model, or something else; a loaded model without a tokenizer, or with a setting of how to load it.

    Example:
        >>> teacher = LocalTeacher("smollm2-135m")
        >>> prompt, ids = teacher.resolve_prompt("Name a colour.")
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | Any,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        quantization_config: Any = None,
        device_map: Any = None,
        chat: bool | None = None,
        base: str | os.PathLike[str] | None = None,
        name: str | None = None,
    ) -> None:
        loaded: Any = getattr(model, "_orig_mod", model)  # of torch.compile: generation compiles for itself
        self.model: PreTrainedModel
        if isinstance(loaded, PreTrainedModel) or is_adapted(loaded):
            if tokenizer is None:
                raise ValueError("A loaded model needs its tokenizer: LocalTeacher(model, tokenizer).")
            loading = {
                "dtype": dtype,
                "quantization_config": quantization_config,
                "device_map": device_map,
                "base": base,
            }
            if given := [setting for setting, value in loading.items() if value is not None]:
                raise ValueError(f"{' and '.join(given)} say how a model is loaded, and this one is; give its name.")
            self.model, self.tokenizer = loaded, tokenizer
            own_name = base_of(loaded).config.name_or_path or type(base_of(loaded)).__name__
            self.name = name or (f"{own_name} with an adapter" if is_adapted(loaded) else own_name)
        elif not isinstance(model, str | os.PathLike):
            raise ValueError(
                f"A teacher that runs here is the name of a model, a PreTrainedModel or a PeftModel, not a {type(model).__name__}."
            )
        elif "://" in (address := os.fspath(model)):
            raise ValueError(
                f"{checked_url(address)} is the address of a server, which gives text and at most its likeliest tokens; the black box "
                "and `distill generate` take it, everything else needs a model that runs here."
            )
        else:
            load: Any = load_model
            tokens_of: Any = model
            if is_adapter_folder(model):
                load, tokens_of = load_adapted, tokenizer_place(model, base)
            elif base is not None:
                raise ValueError(
                    f"base is {os.fspath(base)!r}, which belongs below an adapter, and {os.fspath(model)!r} is a whole model; leave it out."
                )
            more = {"quantization_config": quantization_config, "device_map": device_map, "base": base}
            self.model = load(
                model, dtype=dtype or fast_dtype(), **{name: value for name, value in more.items() if value is not None}
            )
            self.tokenizer = tokenizer or load_tokenizer(tokens_of)
            if torch.cuda.is_available() and not is_quantised(base_of(self.model)) and device_map is None:
                self.model.to("cuda")  # type: ignore[arg-type]
            self.name = name or os.fspath(model)
        self.chat = chat
        # taken at once, because bitsandbytes lays 4-bit weights out anew when they are first used on a CPU
        self._quantised = _weights_fingerprint(self.model, quantised=True) if is_quantised(self.model) else None

    def resolve_prompt(self, prompt: Prompt) -> tuple[Prompt, list[int]]:
        """The prompt as it is asked and its token ids; see `distill.text.encode`."""
        asked = as_prompt(prompt, self.tokenizer, self.chat)
        return asked, encode_prompt(asked, self.tokenizer)

    def identity(self) -> dict[str, Any]:
        """Name, dtype, active adapters, chat template and a fingerprint of the weights (a sample of every tensor)."""
        quantised: dict[str, Any] = {}
        if self._quantised is not None:
            config: Any = self.model.config.quantization_config
            quantised = {"teacher_quantisation": config.to_dict(), "teacher_quantised_weights": self._quantised}
        return {
            "teacher": self.name,
            "teacher_dtype": str(self.model.dtype),
            "teacher_weights": _weights_fingerprint(self.model),
            **quantised,
            **({"teacher_adapters": adapters} if (adapters := active_adapters(self.model)) else {}),
            "stop_ids": sorted(self.eos_ids()),
            "chat_template": fingerprint(str(self.tokenizer.chat_template)),
            **day_settings(self.tokenizer),
        }

    def refusal_of(self, prompt_ids: Sequence[int], sampling: Sampling) -> Refusal | None:
        """Why this prompt cannot be completed: it and the completion exceed the model's positions. None where they do not."""
        positions, asked = positions_of(self.model), len(prompt_ids) + sampling.max_new_tokens
        if positions is None or asked <= positions:
            return None
        room = positions - len(prompt_ids)
        way = f"at most {room} new tokens fit" if room > 0 else "the prompt alone fills it"
        return Refusal(
            f"the prompt and the completion exceed the model's context: {len(prompt_ids)} and {sampling.max_new_tokens} tokens, "
            f"and it has {positions} positions; {way}",
            of_prompt=True,
        )

    def eos_ids(self) -> set[int]:
        """Token ids that end a completion: those of the model's generation config and the tokenizer's EOS."""
        return eos_ids(self.model, self.tokenizer)

    @torch.inference_mode()
    def complete(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seed: int,
        stop_ids: set[int] | None = None,
        streamer: Any = None,
    ) -> list[Completion]:
        """One completion for each prompt.

        The same prompts in the same order with the same seed give the same completions on the same machine. The
        caller's random state is left as it was, and the sampling defaults of the model's generation config (many models
        ship top-p or a repetition penalty) are not applied: only `sampling` decides.

        Args:
            prompts: token ids, without padding.
            sampling: how to draw; its own seed is not read here.
            seed: of this batch.
            stop_ids: tokens that end a completion; by default `eos_ids()`.
            streamer: of `transformers`: is told the tokens of a single prompt's completion as they come.

        Raises:
            ValueError: a prompt that, with the completion, exceeds the model's positions (`refusal_of`).
        """
        for ids in prompts:
            if refusal := self.refusal_of(ids, sampling):
                raise ValueError(f"A completion cannot be had: {refusal.reason}.")
        stops = self.eos_ids() if stop_ids is None else stop_ids
        pad_id = min(stops, default=0)
        device = self.model.device
        input_ids, mask = left_padded(prompts, pad_id, device)
        settings: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            # an explicit top_k, because generate() otherwise keeps only the 50 most likely tokens
            settings = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        config = GenerationConfig(
            **settings, max_new_tokens=sampling.max_new_tokens, pad_token_id=pad_id, eos_token_id=sorted(stops) or None
        )
        devices = [device] if device.type == "cuda" else []
        own_config = own_generation_config([self.model, base_of(self.model)], config)
        with torch.random.fork_rng(devices=devices), own_config, evaluating(self.model):
            torch.manual_seed(seed)
            generate: Any = self.model.generate
            output = generate(input_ids=input_ids, attention_mask=mask, generation_config=config, streamer=streamer)
        return [self._completion(row, stops) for row in output[:, input_ids.shape[1] :].tolist()]

    def _completion(self, ids: list[int], stops: set[int]) -> Completion:
        ids, ended = up_to_end(ids, stops)
        text = str(self.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True))
        return Completion(ids=ids, text=text, finish_reason="stop" if ended else "length")


def _weights_fingerprint(model: PreTrainedModel, quantised: bool = False) -> str:
    """64 values of every tensor of the layers that are quantised, or of all others: enough to tell two checkpoints apart."""
    rounded = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if any(not p.is_floating_point() for p in module.parameters(recurse=False))
    )
    return weights_fingerprint(
        (name, tensor) for name, tensor in _weights(model) if name.startswith(rounded) is quantised
    )


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors; those that `device_map` has offloaded are fetched layer by layer."""
    if not is_dispatched(model):
        yield from model.state_dict().items()
        return
    for name, module in model.named_modules():
        with align_module_device(module, "cpu"):
            yield from module.named_parameters(prefix=name, recurse=False)

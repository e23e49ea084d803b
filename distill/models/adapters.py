"""Adapters (LoRA) through `peft`: a few trained weights beside a frozen student."""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import is_bitsandbytes_available

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import say
from distill.basics.redact import public_name
from distill.basics.settings import plain
from distill.models.load import load_model
from distill.models.quantising import in_bits, is_quantised

_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to start a LoRA, of peft


def lora_config(rank: int, *, alpha: float | None = None, dropout: float = 0.0, targets: str = "all-linear") -> Any:
    """A `peft.LoraConfig` for a causal language model.

    Args:
        rank: of every update B A; above 0.
        alpha: the update is scaled by alpha / rank; None: twice the rank.
        dropout: of the adapter's input, in training.
        targets: `"all-linear"` (every linear layer but the head), or names of layers divided by commas.

    Raises:
        ValueError: peft is not installed; a value out of range.

    Source: LoRA (Hu et al. 2021); all linear layers as in QLoRA (Dettmers et al. 2023).

    Example:
        >>> lora_config(8, targets="q_proj,v_proj").r
        8
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs a rank of 1 or more and a dropout from 0 to below 1, not {rank} and {dropout}.")
    names: Any = targets if targets == "all-linear" else [name.strip() for name in targets.split(",")]
    return _peft().LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )


def add_adapter(model: Any, config: Any, seed: int) -> Any:
    """The model with a fresh adapter, drawn from `seed`; everything else in it is frozen.

    Raises:
        ValueError: there is no model, or it has an adapter already; peft is not installed; the config fits no layer.
    """
    if model is None or is_adapted(model):
        raise ValueError(
            "peft_config puts a fresh adapter on model, which must be there and have none; give one of a PeftModel and "
            "peft_config."
        )
    peft = _peft()
    if not isinstance(config, peft.PeftConfig):
        raise ValueError(f"peft_config is a {type(config).__name__}, expected e.g. peft.LoraConfig(r=16).")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def is_adapted(model: Any) -> bool:
    """Whether the model is a `peft.PeftModel`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_of(model: Any) -> Any:
    """The model inside a `PeftModel`, with the adapter's layers in it; any other model as it is."""
    return model.get_base_model() if is_adapted(model) else model


def active_adapters(model: Any) -> dict[str, Any]:
    """Which adapters of a `PeftModel` compute, and a fingerprint of how; nothing for any other model.

    Weights do not tell: all of several adapters lie in the model, and `set_adapter` chooses. Nor does a config alone: scales can
    be set, and adapters be off, layer by layer.
    """
    if not is_adapted(model):
        return {}
    names = list(model.active_adapters)
    return {"active": names, "fingerprint": fingerprint(_configs(model, names), _layers(model))}


def adapters_word(model: Any) -> str:
    """As `active_adapters`, one word; of the model inside a `PeftModel` too, or of one whose layers hold adapters without it. Empty: it has none."""
    base = base_of(model)
    layers = _layers(base)
    names = {adapter for _, active, *_ in layers for adapter in active}
    return fingerprint(_configs(base, names), layers) if layers else ""


def _configs(model: Any, names: Collection[str]) -> dict[str, Any]:
    """Of adapters, what decides how they compute: fields that differ from their defaults, so that a field that another version of peft adds tells nothing.

    Not where it came from, who saved it, and how it is trained.
    """
    idle = {"base_model_name_or_path", "revision", "peft_version", "auto_mapping", "task_type", "inference_mode", "lora_dropout", "init_lora_weights"}  # fmt: skip
    found = {}
    for name, config in getattr(model, "peft_config", {}).items():
        if name in names:
            try:
                usual = plain(type(config)().to_dict())
            except (TypeError, ValueError):  # a kind that has no defaults
                usual = {}
            own = plain(config.to_dict())
            found[name] = {k: v for k, v in own.items() if k not in idle and (k not in usual or usual[k] != v)}
    return found


def _layers(model: Any) -> list[list[Any]]:
    """Of each layer with adapters its name, those that are active, whether they are off, and their scales."""
    return [
        [name, list(module.active_adapters), bool(module.disable_adapters), plain(getattr(module, "scaling", {}))]
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "disable_adapters")
    ]


def is_adapter_folder(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter alone, to be put on the model it names."""
    folder = Path(os.fspath(name)).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_name(folder: str | os.PathLike[str]) -> str | None:
    """The model on which the adapter of a folder belongs, as it says; None where it does not."""
    written = (Path(os.fspath(folder)).expanduser() / "adapter_config.json").read_text(encoding="utf-8")
    name = json.loads(written).get("base_model_name_or_path")
    return str(name) if name else None


def tokenizer_place(folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> Any:
    """Where the tokenizer of a folder that holds an adapter is: in it, else beside its base."""
    place = Path(os.fspath(folder)).expanduser()
    return place if (place / "tokenizer_config.json").is_file() else base or base_name(place)


def load_adapted(folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None, **kwargs: Any) -> Any:
    """The `peft.PeftModel` of a folder that holds an adapter alone, on the model that it names.

    Args:
        folder: with `adapter_config.json`.
        base: the model in its place, by any name; None: the one the folder names.
        kwargs: how the model below it is loaded; see `distill.models.load.load_model`.

    Raises:
        ValueError: peft is not installed; the folder does not say on which model the adapter belongs, that one cannot be
            loaded, or the adapter does not fit on it.
    """
    place = Path(os.fspath(folder)).expanduser()
    name = base or base_name(place)
    way = "give the model with base (--base), or peft.PeftModel.from_pretrained(model, folder) in place of the folder"
    if not name:
        raise ValueError(f"{place} holds an adapter that does not say on which model it belongs; {way}.")
    try:
        model = load_model(name, **kwargs)
    except ValueError as error:
        told = str(error).rstrip(".")
        raise ValueError(
            f"{place} holds an adapter on {os.fspath(name)!r}, which cannot be loaded ({told}); {way}."
        ) from None
    peft = _peft()
    try:
        return peft.PeftModel.from_pretrained(model, place).eval()
    except (
        RuntimeError,
        ValueError,
        OSError,
    ) as error:  # peft's and torch's words for: of other shapes, no such layers, no weights
        raise ValueError(
            f"The adapter in {place} cannot be put on {os.fspath(name)!r} ({' '.join(str(error).split())[:300]}); {way}."
        ) from None


@contextmanager
def adapter_off(model: Any, switches: Collection[Any] | None = None) -> Iterator[None]:
    """Within it a `PeftModel` computes what its base does: every adapter is off, `modules_to_save` are the originals.

    Which parameters are trained is as it was afterwards; peft would set every weight of an active adapter to be trained.

    Args:
        model: the `PeftModel`.
        switches: what `switches_of` gave, for passes without gradients that come often: only these are touched, nothing is looked for, and
            which parameters are trained stays as it is.
    """
    if switches is not None:
        were_off = [switch for switch in switches if switch._disable_adapters]
        for switch in switches:
            switch._disable_adapters = True
        try:
            yield
        finally:
            for switch in switches:
                switch._disable_adapters = False
            for switch in were_off:
                switch._disable_adapters = True
        return
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    model.base_model.disable_adapter_layers()
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


def switches_of(model: Any) -> list[Any] | None:
    """The modules that peft's own switch goes through, if it does no more than set their flag and what is trained; else None.

    Looking for them takes longer than a small forward pass (49 ms with 32 layers), so whoever switches often keeps them.
    """
    if type(model.base_model).disable_adapter_layers.__module__ != "peft.tuners.tuners_utils":
        return None  # a llama adapter exchanges modules
    found = [module for module in model.modules() if "_disable_adapters" in dir(module)]
    own = {type(module).enable_adapters.__module__ for module in found}
    return found if own <= {"peft.tuners.tuners_utils", "peft.utils.other"} else None


def check_no_virtual_tokens(model: Any) -> None:
    """Refuse a model with prompt tuning or its like: its positions are not those of another model.

    Raises:
        ValueError: such an adapter.
    """
    for name, config in model.peft_config.items() if is_adapted(model) else ():
        if config.is_prompt_learning:
            raise ValueError(
                f"The adapter {name!r} ({config.peft_type.value}) puts virtual tokens before the text, and white box compares "
                "position by position; take an adapter on the weights, such as LoRA."
            )


def check_off_is_base(model: Any) -> None:
    """Refuse an adapter which, when it is off, does not leave the weights that were there before it.

    Raises:
        ValueError: weights of the base that are trained too; an adapter that is merged, or that has written into the base when
            it was made.
    """
    for config in model.peft_config.values():
        start = str(getattr(config, "init_lora_weights", "")).lower()
        if start.startswith(_REWRITES_BASE):
            raise ValueError(
                f"init_lora_weights={start!r} takes part of the base's weights into the adapter, so that with the adapter off "
                "the base is another model than before; leave it at its default, or load the teacher by itself."
            )
    layers = [module for module in model.modules() if getattr(module, "merged", False) is True]
    if layers:
        raise ValueError(
            "The adapter is merged into the base's weights, so it cannot be off; call unmerge_adapter() first."
        )
    with adapter_off(model):
        moving = [name for name, p in model.named_parameters() if p.requires_grad]
    if moving:
        raise ValueError(
            f"{len(moving)} weights of the base are trained beside the adapter, the first is {moving[0]}, so the teacher would "
            "move with the student. Freeze them (bias='none'), or name them in modules_to_save, which trains a copy."
        )


def merged(model: Any) -> PreTrainedModel:
    """The student as a plain model, its adapter added into its weights in place; any other model as it is.

    A merged weight is W + scale * B A, rounded once more, so its logits differ from the adapted model's by rounding. Where the
    head and the embeddings are one matrix and one of them has an adapter, they are two afterwards.
    """
    if not is_adapted(model):
        return model
    base = base_of(model)
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    if any(hasattr(module, "base_layer") for module in (embeddings, head)):
        ours, theirs = (getattr(module, "base_layer", module) for module in (embeddings, head))
        if ours.weight is theirs.weight:  # peft would add the update of the one to both
            theirs.weight = torch.nn.Parameter(theirs.weight.detach().clone(), requires_grad=False)
    return model.merge_and_unload()


def save_model(model: Any, folder: Path) -> None:
    """Save a model; one with an adapter merged, in place, and its adapter in the folder `adapter` within.

    A quantised base cannot be merged without loss: there only the adapter is saved, which names its base.
    """
    if is_adapted(model):
        quantised = is_quantised(base_of(model))
        adapter = folder if quantised else folder / "adapter"
        model.save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)  # peft's form to fill in
        _hide_path(adapter / "adapter_config.json")
        if quantised:
            say(
                f"The base is quantised, so only the adapter is saved; load it with peft on {base_of(model).name_or_path}."
            )
            return
        model = merged(model)
    model.save_pretrained(folder)


def _hide_path(file: Path) -> None:
    """peft writes down from where on this machine the base was loaded; leave the name."""
    config = json.loads(file.read_text(encoding="utf-8"))
    if base := config.get("base_model_name_or_path"):
        config["base_model_name_or_path"] = public_name(base)
        file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def load_in_4bit() -> Any:
    """The setting with which `from_pretrained` loads a base in 4 bits, for training an adapter on it.

    Raises:
        ValueError: there is no CUDA, or bitsandbytes is not installed.

    Source: QLoRA (Dettmers et al. 2023): 4-bit NormalFloat, double quantisation, bfloat16 products.
    """
    if not torch.cuda.is_available() or not is_bitsandbytes_available():
        raise ValueError(
            "load_in_4bit needs an NVIDIA GPU and the package bitsandbytes: pip install 'distill[quantised]'. Without them, leave "
            "it out; LoRA on unquantised weights needs neither."
        )
    return in_bits(4)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ValueError("Adapters (LoRA) need the package peft: pip install 'distill[peft]'.") from None
    return peft

"""How well `distill plan` foresees the memory of a training: planned beside measured, for both trainers.

    python scripts/check_plan.py                         # the demo's setting and two synthetic sizes
    python scripts/check_plan.py --cases wide --ways "white box, logits" --dtypes float32
    python scripts/check_plan.py --processes 2 --sharding none,fsdp    # DDP and FSDP2, over gloo: the process that holds most

Every measurement is a process of its own that trains two steps. On a CPU it is the highest resident memory, less what was
resident after a training of a tiny model (imports, thread pools, kernels); on a GPU it is what torch had allocated.
"""

import argparse
import ctypes
import dataclasses
import gc
import itertools
import json
import re
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import _status, machine, table
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, PreTrainedModel, TrainingArguments

from distill import BlackBoxTrainer, WhiteBoxTrainer, make_student
from distill.models.embedded import fetch_embedded
from distill.models.load import fast_dtype, load_model, load_tokenizer
from distill.pairs.schema import pairs_from_rows
from distill.planning import Plan, Setting, cut, plan, shape_of
from distill.running.flags import build_objectives

aten = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """A teacher, the layers its student keeps, and a batch; `config` of a synthetic Llama, None: the embedded model."""

    layers: int
    batch: int
    length: int
    config: dict[str, Any] | None = None
    share: float = 0.5  # of the tokens that is supervised
    bf16: bool = True
    checkpointing: bool = False
    zeros: bool = False  # products in bfloat16 are not computed
    processes: int = 1  # each with such a batch
    sharding: str = "none"  # "fsdp": FSDP2, the teacher's weights divided, too


WIDE = {
    "vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6,
    "num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": False, "max_position_embeddings": 2048,
}  # fmt: skip
LARGE_VOCABULARY = {
    "vocab_size": 128_256, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": True, "max_position_embeddings": 2048,
}  # fmt: skip
CASES = {
    "demo": Case(12, 8, 120),
    "wide": Case(3, 4, 256, WIDE),
    "large vocabulary": Case(4, 2, 512, LARGE_VOCABULARY),
}
WAYS = {
    "black box": "",
    "white box, logits": "logits",
    "white box, all three": "logits,hidden=0.1,attention=0.1",
}


class ZeroProducts(TorchDispatchMode):
    """Matrix products in bfloat16 give zeros, at once: the same tensors live as long, on a CPU that is slow at bfloat16."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.mm.default and args[0].dtype == torch.bfloat16:
            return args[0].new_zeros((args[0].shape[0], args[1].shape[1]))
        if func is aten.mm.out and args[0].dtype == torch.bfloat16:
            return kwargs["out"].zero_()
        return func(*args, **kwargs)


def measured(case: Case, way: str, device: str) -> int:
    """Bytes at the peak of a training of two steps, in this process."""
    tokenizer = load_tokenizer(fetch_embedded("smollm2-135m"))
    tiny: dict[str, Any] = {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    small = LlamaConfig(**{**tiny, "pad_token_id": 2})
    first = dataclasses.replace(case, layers=1, batch=2, length=32, config=tiny, checkpointing=False, zeros=False)
    _train([build(small, torch.bfloat16)], first, way, tokenizer, device)
    gc.collect()
    _trim()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS") if device == "cpu" else 0
    if case.config is None:
        teachers = [load_model("smollm2-135m", dtype=torch.bfloat16)]
    else:
        teachers = [build(LlamaConfig(**case.config, pad_token_id=2), torch.bfloat16)]
    _train(teachers, case, way, tokenizer, device)
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    return (_status("VmHWM") - before) * 1024


def build(config: LlamaConfig, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _train(teachers: list[PreTrainedModel], case: Case, way: str, tokenizer: Any, device: str) -> None:
    teacher: Any = teachers.pop()  # nobody else holds it, so that a black box can forget it
    if device != "cpu":
        teacher.to(device)
    student = make_student(teacher, case.layers)
    pairs = _pairs(case, min(teacher.config.vocab_size, len(tokenizer)) - 1)
    sharded: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2}} if case.sharding == "fsdp" else {}
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=case.batch, max_steps=2, bf16=case.bf16, report_to="none", seed=0,
            use_cpu=device == "cpu", save_strategy="no", disable_tqdm=True, logging_steps=10,
            activation_checkpointing=case.checkpointing,
            **sharded,
        )  # fmt: skip
        common: dict[str, Any] = {
            "model": student, "args": args, "train_dataset": pairs, "processing_class": tokenizer
        }  # fmt: skip
        if WAYS[way]:
            trainer: Any = WhiteBoxTrainer(
                **common, teacher=teacher, objectives=build_objectives(WAYS[way]), shard_teacher=case.sharding == "fsdp"
            )
        else:
            # the black box has no teacher beside it while it trains
            del teacher
            trainer = BlackBoxTrainer(**common)
        gc.collect()
        _trim()
        Path("/proc/self/clear_refs").write_text("5")  # what loading took at its worst is not asked here
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        with ZeroProducts() if case.zeros else nullcontext():
            trainer.train()


def _pairs(case: Case, highest: int) -> Any:
    """Rows of `length` tokens, every second one a token shorter, so that there is padding and a mask."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(2 * case.batch * case.processes):
        length = case.length - i % 2
        ids = torch.randint(3, highest, (length,), generator=generator).tolist()
        prompt = length - round(case.share * length)
        rows.append(
            {
                "id": f"row{i}", "prompt": f"prompt {i}", "completion": f"completion {i}", "prompt_ids": ids[:prompt],
                "completion_ids": ids[prompt:], "finish_reason": "length", "sample": 0, "teacher": "random",
            }
        )  # fmt: skip
    return pairs_from_rows(rows, where="check_plan")


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--ways", default=";".join(WAYS), help="divided by semicolons")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtypes", default="bfloat16,float32", help="of the products; the student's weights are float32"
    )
    parser.add_argument("--processes", type=int, default=1, help="each has a case's rows")
    parser.add_argument("--sharding", default="none", help="none, fsdp or both, by comma")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "WAY"), help="measure one, in this process")
    args = parser.parse_args()
    if args.child:
        case = Case(**json.loads(args.child[0]))
        print(json.dumps({"bytes": measured(case, args.child[1], args.device)}))
        return
    slow = args.device == "cpu" and fast_dtype() != torch.bfloat16
    rows = []
    for name in args.cases.split(","):
        for dtype in args.dtypes.split(","):
            case = dataclasses.replace(
                CASES[name], bf16=dtype == "bfloat16", zeros=slow and dtype == "bfloat16", processes=args.processes
            )
            for way, sharding in itertools.product(args.ways.split(";"), args.sharding.split(",")):
                case = dataclasses.replace(case, sharding=sharding)
                foreseen, seen = planned(case, way, args.device), run_child(case, way, args.device)
                ratio = f"{foreseen.peak / seen:.2f}"
                divided = [{"none": "DDP", "fsdp": "FSDP2"}[sharding]] if args.processes > 1 else []
                line = [name, dtype, *divided, way, *(f"{size / 2**20:,.0f}" for size in (foreseen.peak, seen)), ratio]
                rows.append([*line, foreseen.peak_moment])
                print(" | ".join(rows[-1]), flush=True)
    print(f"\n{machine(args.device)}" + "; products in bfloat16 left out" * slow + "\n")
    divided = ["processes"] if args.processes > 1 else []
    print(
        table(
            ["case", "products", *divided, "way", "planned, MiB", "measured, MiB", "planned/measured", "highest in"],
            rows,
        )
    )


def planned(case: Case, way: str, device: str) -> Plan:
    """From configs alone."""
    config = "smollm2-135m" if case.config is None else LlamaConfig(**case.config)
    teacher = shape_of(config, torch.bfloat16)
    setting = Setting(
        batch=case.batch * case.processes, processes=case.processes, sharding=case.sharding, length=case.length, share=case.share, bf16=case.bf16, checkpointing=case.checkpointing,
        device=device, objectives=build_objectives(WAYS[way]) if WAYS[way] else (),
    )  # fmt: skip
    return plan(setting, cut(teacher, case.layers, torch.float32), teacher if WAYS[way] else None)


def run_child(case: Case, way: str, device: str) -> int:
    start = [sys.executable]
    if case.processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={case.processes}"]
    command = [*start, __file__, "--device", device, "--child", json.dumps(dataclasses.asdict(case)), way]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"The measurement of {case} failed:\n{result.stderr[-3000:]}")
    return max(
        int(size) for size in re.findall(r'{"bytes": (\d+)}', result.stdout)
    )  # of processes whose lines may meet


if __name__ == "__main__":
    main()

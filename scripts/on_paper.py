"""Large distillations on paper: memory, operations and bytes sent by `distill plan`, and what they would take of a clock.

    python scripts/on_paper.py                  # 8B to 1B on 8 GPUs, 70B to 8B on 64; some minutes on a CPU

Nothing here is measured. It writes a config.json of each model, from the shapes their makers published, so that each line can be
asked again: `distill plan --teacher runs/on_paper/llama-3.1-8b --student runs/on_paper/llama-3.2-1b ...`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import table
from transformers import LlamaConfig

from distill.planning import Plan, Setting, changed, gib, plan, shape_of, traffic
from distill.running.flags import build_objectives

# Published shapes of Llama 3.1 and 3.2 (Llama team 2024): width, inner width, layers, heads, key heads, head size, tied
SHAPES = {
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, True),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, 128, False),
    "llama-3.1-70b": (8192, 28_672, 80, 64, 8, 128, False),
}
LENGTH = 4096


@dataclass(frozen=True)
class Machine:
    """What is assumed of the clock; all of it can be given.

    Args:
        peak: operations a second of a GPU in bfloat16 (H100 SXM, dense: 989e12).
        used: share of it that a step reaches.
        near, far: bytes a second that a GPU sends, within a machine of 8 and between machines.
    """

    peak: float
    used: float
    near: float
    far: float

    def seconds(self, planned: Plan) -> float:
        return (planned.teacher_flops + planned.student_flops) / (self.peak * self.used)

    def sending(self, planned: Plan) -> float:
        return sum(traffic(planned).values()) / (self.near if planned.setting.processes <= 8 else self.far)


def write_config(name: str, folder: Path) -> Path:
    """The folder of the model's config.json."""
    width, inner, layers, heads, key_heads, head, tied = SHAPES[name]
    rope = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads, head_dim=head, tie_word_embeddings=tied, max_position_embeddings=131_072,
        rope_parameters=rope,
    )  # fmt: skip
    config.save_pretrained(folder / name)
    return folder / name


def plans(teacher: Path, student: Path, processes: int, ways: dict[str, dict[str, object]]) -> dict[str, Plan]:
    """By what is said of it; a way's changes are to a white box of the logits with one row a process."""
    shapes = shape_of(student, torch.float32), shape_of(teacher, torch.bfloat16)
    found: dict[str, Plan] = {}
    for name, changes in ways.items():
        rows = int(str(changes.pop("rows", 1)))
        objectives = str(changes.pop("objectives", "logits"))
        same = changes.pop("as", None)  # what is counted is that of another line
        if same is not None:
            found[name] = changed(found[str(same)], **changes)
            continue
        setting = Setting(
            rows * processes, LENGTH, processes=processes, device="cuda",
            objectives=build_objectives(objectives) if objectives else (), **changes,  # type: ignore[arg-type]
        )  # fmt: skip
        found[name] = plan(setting, shapes[0], shapes[1] if objectives else None)
        print(f"  counted: {name}, {gib(found[name].peak)}", flush=True)
    return found


def report(found: dict[str, Plan], machine: Machine) -> str:
    rows = []
    for name, planned in found.items():
        compute, sending = machine.seconds(planned), machine.sending(planned)
        tokens = planned.setting.batch * LENGTH
        bound = "computing" if compute > sending else "sending"
        rows.append(
            [
                name, f"{planned.peak / 2**30:,.1f}", f"{planned.teacher_flops / 1e12:,.0f}",
                f"{planned.student_flops / 1e12:,.0f}", f"{sum(traffic(planned).values()) / 1e9:,.1f}", f"{compute:.2f}",
                f"{sending:.2f}", bound, f"{tokens / max(compute, sending):,.0f}", f"{tokens / (compute + sending):,.0f}",
            ]
        )  # fmt: skip
    columns = [
        "each GPU", "GiB at the peak", "TFLOP teacher", "TFLOP student", "GB sent", "s computing", "s sending", "bound by",
        "tokens/s, all hidden", "tokens/s, nothing hidden",
    ]  # fmt: skip
    return table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP a second of a GPU in bfloat16")
    parser.add_argument("--used", type=float, default=0.4, help="share of it that is reached")
    parser.add_argument("--near", type=float, default=300.0, help="GB a second sent by a GPU within a machine")
    parser.add_argument("--far", type=float, default=40.0, help="and between machines")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/on_paper"))
    args = parser.parse_args()
    machine = Machine(args.peak * 1e12, args.used, args.near * 1e9, args.far * 1e9)
    folders = {name: write_config(name, args.output_dir) for name in SHAPES}
    small: dict[str, dict[str, object]] = {
        "black box, DDP, 1 row": {"objectives": ""},
        "white box, DDP, 1 row": {},
        "white box, all three, DDP, 1 row": {"objectives": "logits,hidden=0.1,attention=0.1"},
        "white box, FSDP2 and sharded teacher, 1 row": {"as": "white box, DDP, 1 row", "sharding": "fsdp"},
        "white box, DDP, 4 rows, checkpointing": {"rows": 4, "checkpointing": True},
    }
    large: dict[str, dict[str, object]] = {
        "white box, FSDP2 and sharded teacher, 1 row, checkpointing": {"sharding": "fsdp", "checkpointing": True},
        "white box, FSDP2 and sharded teacher, 4 rows, checkpointing": {
            "sharding": "fsdp", "checkpointing": True, "rows": 4,
        },
        "white box, DDP, 1 row, checkpointing": {
            "as": "white box, FSDP2 and sharded teacher, 1 row, checkpointing", "sharding": "none",
        },
        "black box, FSDP2, 1 row, checkpointing": {"objectives": "", "sharding": "fsdp", "checkpointing": True},
    }  # fmt: skip
    for title, (teacher, student, processes, ways) in {
        "8B to 1B on 8 GPUs": ("llama-3.1-8b", "llama-3.2-1b", 8, small),
        "70B to 8B on 64 GPUs": ("llama-3.1-70b", "llama-3.1-8b", 64, large),
    }.items():
        print(f"### {title}\n", flush=True)
        found = plans(folders[teacher], folders[student], processes, ways)
        print("\n" + report(found, machine), flush=True)


if __name__ == "__main__":
    main()

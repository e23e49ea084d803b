"""What a training will hold and cost, from configs alone."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from distill.planning.configs import Shape
from distill.planning.dry_run import BACKWARD, FORWARD, TEACHER, DryRun, dry_run
from distill.planning.live_tensors import COPIES
from distill.planning.setting import Setting

UPDATE = "optimiser step"
WEIGHTS, STATES, TEACHERS, BUCKETS = "student's weights", "optimiser states", "teacher's weights", "DDP's buckets"
GATHERED, DEQUANTISED = "gathered weights", "one layer in 16 bits"


@dataclass(frozen=True)
class Plan:
    """What one process holds, in bytes.

    Args:
        setting, student, teacher: what was planned; teacher None: the black box.
        always: what is there all the time, by name.
        moments: what is there beside it, by name, where each part of a step is highest.
        run: what was counted.
    """

    setting: Setting
    student: Shape
    teacher: Shape | None
    always: dict[str, int]
    moments: dict[str, dict[str, int]]
    run: DryRun

    @property
    def teacher_flops(self) -> int:
        """Operations of the teacher's forward pass, of one process in a step."""
        return self.run.teacher_flops

    @property
    def student_flops(self) -> int:
        """Operations of everything else."""
        return self.run.student_flops

    @property
    def totals(self) -> dict[str, int]:
        """Bytes at the highest of every part of a step."""
        return {name: sum(self.always.values()) + sum(found.values()) for name, found in self.moments.items()}

    @property
    def peak(self) -> int:
        """Bytes at the highest moment of a step."""
        return max(self.totals.values())

    @property
    def peak_moment(self) -> str:
        """The part of a step that is highest."""
        return max(self.totals, key=self.totals.__getitem__)

    @property
    def parts(self) -> dict[str, int]:
        """What is held at the highest moment; they sum up to `peak`."""
        return {name: size for name, size in {**self.always, **self.moments[self.peak_moment]}.items() if size}


def plan(setting: Setting, student: Shape, teacher: Shape | None = None, run: DryRun | None = None) -> Plan:
    """Foresee the memory and the operations of a training step. Nothing is loaded.

    Weights and states are arithmetic. Everything else is counted by `dry_run`, which runs the models' code on tensors without
    values, on the kernels of a CPU. With `sharding="fsdp"` an estimate is made of both: what is divided, is divided by the
    processes; two layers, embeddings and head are whole.

    Args:
        setting: batch, length and the rest.
        student: from `shape_of` or `cut`.
        teacher: of the white box, whose objectives are in `setting`; None: the black box.
        run: what was counted for a setting that differs in nothing that is counted; None: it is counted now.

    Raises:
        ValueError: rows longer than a model's positions; as `dry_run`.

    Example:
        >>> teacher = shape_of("smollm2-135m", torch.bfloat16)
        >>> plan(Setting(batch=8, length=120), cut(teacher, 12, torch.float32)).peak / 2**20
    """
    if (teacher is None) != (not setting.objectives):
        raise ValueError("Objectives and a teacher go together: the white box has both, the black box neither.")
    for shape in (student, teacher):
        positions = None if shape is None else getattr(shape.config, "max_position_embeddings", None)
        if shape is not None and positions and setting.length > positions:
            raise ValueError(
                f"length is {setting.length}, but {shape.name} has {positions} positions; give {positions} or less."
            )
    run = dry_run(setting, student, teacher) if run is None else run
    divided = setting.processes if setting.sharding == "fsdp" else 1
    always = {WEIGHTS: run.weights // divided, STATES: state_bytes(setting, student, run) // divided}
    moments = {name: dict(found) for name, found in run.moments.items()}
    moments[UPDATE] = {"gradients": run.gradients}
    if teacher is not None:
        always[TEACHERS] = teacher.weight_bytes(setting.teacher_bits) // divided
        if setting.teacher_bits:
            moments[TEACHER][DEQUANTISED] = 2 * teacher.largest_linear
    if setting.processes > 1 and divided == 1:
        always[BUCKETS] = run.gradients
    if divided > 1:
        moments = _sharded(moments, run, student, teacher, setting)
    return Plan(setting, student, teacher, always, moments, run)


def state_bytes(setting: Setting, student: Shape, run: DryRun) -> int:
    """Bytes of the optimiser's states."""
    if setting.lora_r is not None or not student.model.dtype.is_floating_point:
        size = 4  # adapters are kept in float32
    else:
        size = student.model.dtype.itemsize
    if setting.optimiser == "adafactor":  # a number a row and a number a column of every matrix, in float32
        return sum(4 * sum(p.shape) for p in student.model.parameters()) if setting.lora_r is None else 4 * run.trained
    # 8 bits: two bytes a parameter, and a float32 for every 256 of each
    each = {"adamw": 2 * size, "adamw_8bit": 2 + 8 / 256, "sgd": 0, "sgd_momentum": size}[setting.optimiser]
    return round(each * run.trained)


def _sharded(
    moments: dict[str, dict[str, int]], run: DryRun, student: Shape, teacher: Shape | None, setting: Setting
) -> dict[str, dict[str, int]]:
    gradients = run.gradients // setting.processes
    # between micro-batches accelerate lets them add up whole, in the precision they are reduced in
    waiting = (2 if setting.bf16 else 4) * run.trained if setting.accumulation > 1 else 0
    whole = {FORWARD: _gathered(student, setting), BACKWARD: _gathered(student, setting)}
    if teacher is not None:
        whole[TEACHER] = _gathered(teacher, setting)
    found = {}
    for name, held in moments.items():
        # the copies that autocast keeps are, under FSDP, the gathered weights themselves
        kept = Counter({label: size for label, size in held.items() if label != COPIES})
        kept["gradients"] = gradients if name == UPDATE else waiting
        if name == BACKWARD:
            kept["gradients"] = max(gradients, waiting) + whole[BACKWARD]
        kept[GATHERED] = whole.get(name, 0)
        found[name] = dict(kept)
    return found


def _gathered(shape: Shape, setting: Setting) -> int:
    """Bytes of two layers, of which one is fetched while the other computes, and of all that is in no layer."""
    layers = shape.config.num_hidden_layers
    named = [(name, p.numel()) for name, p in shape.model.named_parameters()]
    inside = sum(count for name, count in named if ".layers." in name or ".h." in name)
    outside = sum(count for _, count in named) - inside
    size = 2 if setting.bf16 else shape.model.dtype.itemsize
    return size * (2 * -(-inside // layers) + outside)


def without_teacher(planned: Plan) -> int:
    """Bytes of the peak if what the teacher says came from elsewhere: its weights and its forward pass are not here."""
    kept = sum(size for name, size in planned.always.items() if name != TEACHERS)
    return kept + max(sum(found.values()) for name, found in planned.moments.items() if name != TEACHER)


def changed(planned: Plan, **changes: Any) -> Plan:
    """The plan of a setting that differs in these; counted again only where the step itself differs."""
    setting, before = replace(planned.setting, **changes), planned.setting
    counted = ("rows", "checkpointing", "lora_r")
    same = all(getattr(setting, name) == getattr(before, name) for name in counted)
    return plan(setting, planned.student, planned.teacher, planned.run if same else None)

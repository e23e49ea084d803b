"""Communication: what processes send each other in a step, counted in bytes; nothing of it is measured."""

from distill.planning.plan import Plan


def traffic(planned: Plan) -> dict[str, int]:
    """Bytes that one process sends in one optimiser step, by what they are; empty for one process.

    A ring is assumed: to gather or to reduce-and-scatter n bytes over P processes each sends n (P - 1) / P, and an all-reduce
    is both. DDP reduces gradients once a step, in the precision of the weights that train. FSDP2, as `accelerate` sets it up,
    gathers layers (and untied embeddings) in each forward and each backward pass, head, last norm and tied embeddings once for
    both, in bfloat16 under bf16; it reduces gradients in the same precision, once a step. A sharded teacher is gathered once a
    forward pass, in its own precision.

    Args:
        planned: its `setting` decides what is exchanged.

    Source: ZeRO (Rajbhandari et al. 2020) section 7; torch's `fully_shard`; accelerate 1.15 `fsdp2_prepare_model`.

    Example:
        >>> traffic(plan(Setting(batch=8, length=128, processes=8), student))["gradients, all-reduce"]
    """
    setting, run = planned.setting, planned.run
    if setting.processes == 1:
        return {}
    others = (setting.processes - 1) / setting.processes
    if setting.sharding == "none":
        return {"gradients, all-reduce": round(2 * others * run.gradients)}
    size = 2 if setting.bf16 else planned.student.model.dtype.itemsize
    whole, once = planned.student.parameters, planned.student.kept_whole
    gathered = setting.accumulation * size * (2 * (whole - once) + once)
    found = {
        "student's weights, gathered": round(others * gathered),
        "gradients, scattered": round(others * size * run.trained),
    }
    if planned.teacher is not None:
        teacher = planned.teacher.weight_bytes(setting.teacher_bits)
        found["teacher's weights, gathered"] = round(others * setting.accumulation * teacher)
    return found

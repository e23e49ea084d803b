"""Counts what makes the host wait for a GPU: by operator, on any device, and as CUDA itself reports it."""

import warnings
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")


class HostWaits(TorchDispatchMode):
    """Within it, `found` counts operators whose result the host has to know: scalars, sizes, copies to the host.

    A tensor indexed by booleans calls `nonzero` inside its kernel, where no mode sees it; it counts as `index[bool]`. A copy from a
    GPU counts as `to host`; of a tensor on a CPU, `to("cpu")`, by that very word, and `cpu()` do.
    """

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if name in WAITING:
            self.found[name] += 1
        elif name in INDEXING and any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1]):
            self.found["index[bool]"] += 1
        elif name == "_to_copy" and args[0].device.type != "cpu" and str(kwargs.get("device")) == "cpu":
            self.found["to host"] += 1
        return function(*args, **kwargs)

    def __enter__(self):
        plain = self.plain = torch.Tensor.tolist  # calls no operator on a CPU; on a GPU a copy

        def tolist(tensor):
            self.found["tolist"] += tensor.device.type == "cpu"
            return plain(tensor)

        torch.Tensor.tolist = tolist
        to, cpu = self.copies = torch.Tensor.to, torch.Tensor.cpu

        # of a tensor elsewhere the copy itself is seen, as an operator
        def counted(tensor, *args, **kwargs):
            asked = args[0] if args else kwargs.get("device")
            # a device, and no word, is where training runs
            self.found["to host"] += tensor.device.type == "cpu" and isinstance(asked, str) and asked == "cpu"
            return to(tensor, *args, **kwargs)

        def counted_cpu(tensor, *args, **kwargs):
            self.found["to host"] += tensor.device.type == "cpu"
            return cpu(tensor, *args, **kwargs)

        torch.Tensor.to, torch.Tensor.cpu = counted, counted_cpu
        return super().__enter__()

    def __exit__(self, *args):
        torch.Tensor.tolist = self.plain
        torch.Tensor.to, torch.Tensor.cpu = self.copies
        return super().__exit__(*args)

    def total(self):
        return sum(self.found.values())


def waits_of_a_step(run, warm=1):
    """What one training step (forward, backward, not the optimiser) of a trainer waits for, after `warm` others.

    Returns:
        the counts by operator, and, on a GPU, how often CUDA says that it waited.
    """
    on_gpu = run.args.device.type == "cuda"
    found, reported, original, steps = [Counter()], [0], run.training_step, []

    def step(*args, **kwargs):
        steps.append(1)
        if len(steps) <= warm:
            return original(*args, **kwargs)
        with HostWaits() as waits, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if on_gpu:
                torch.cuda.set_sync_debug_mode("warn")
            try:
                result = original(*args, **kwargs)
            finally:
                if on_gpu:
                    torch.cuda.set_sync_debug_mode("default")
        found[0] = waits.found
        reported[0] = sum("synchronizing CUDA operation" in str(one.message) for one in said)
        return result

    run.training_step = step
    run.train()
    assert len(steps) > warm, "no step was left to count"
    return found[0], reported[0]

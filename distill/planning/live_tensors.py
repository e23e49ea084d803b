"""Tensors alive during a step, counted on tensors without values: nothing is loaded and nothing is computed.

The model's own code runs on fake tensors (`torch.compile` uses the same), so what is counted is what the installed versions
of torch and transformers really allocate, for any architecture: saved activations, copies in another precision, gradients.
What a kernel allocates for itself and frees again is not seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
COPIES = "weight copies"  # of weights in another precision, which autocast keeps until the backward pass used them


class LiveBytes(TorchDispatchMode):
    """Within it, bytes of living tensors by label, their highest sum in every moment, and the operations of matrix products.

    Args:
        model: its weights are not counted; None: there is none.
        rows: how many True there are in a boolean index, which on tensors without values nobody else can know.
    """

    def __init__(self, model: nn.Module | None, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.label = "activations"
        self.live: Counter[str] = Counter()
        self.highest: dict[str, Counter[str]] = {}  # of every moment
        self.flops = 0
        self._moment = ""
        self._storages: dict[int, Any] = {}
        held = [] if model is None else [*model.parameters(), *model.buffers()]
        self._weights = {tensor.untyped_storage()._cdata: tensor for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.index.Tensor:
            args = (args[0], self._as_numbers(args[1]))
        elif func is aten.index_put.default or func is aten._unsafe_index_put.default:
            args = (args[0], self._as_numbers(args[1]), *args[2:])
        out = func(*args, **kwargs)
        self._count_flops(func, args, kwargs, out)
        is_copy = func is aten._to_copy.default and args[0].untyped_storage()._cdata in self._weights
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._track(tensor, COPIES if is_copy else self.label)
        return out

    @contextmanager
    def moment(self, name: str, label: str) -> Iterator[None]:
        """What is made within it has this label; its highest sum is kept under this name."""
        before = self._moment, self.label
        self._moment, self.label = name, label
        self._look()
        try:
            yield
        finally:
            self._moment, self.label = before

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """What is made within it has this label."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def _track(self, tensor: Tensor, label: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or key in self._weights:
            return

        def gone(_: Any) -> None:
            self.live[label] -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, gone)
        self.live[label] += size
        self._look()

    def _look(self) -> None:
        if self.live.total() >= self.highest.get(self._moment, Counter()).total():
            self.highest[self._moment] = Counter(self.live)

    def _as_numbers(self, indices: Any) -> list[Tensor | None]:
        """A boolean index [B, T] as two lists of `rows` numbers, which is what torch makes of it."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype == torch.bool:
                found += [index.new_zeros(self.rows, dtype=torch.long) for _ in range(index.ndim)]
            else:
                found.append(index)
        return found

    def _count_flops(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in _CPU_ATTENTION:
            query, key = args[_CPU_ATTENTION[packet][0]].shape, args[_CPU_ATTENTION[packet][0] + 1].shape
            self.flops += _CPU_ATTENTION[packet][1] * query[0] * query[1] * query[2] * key[2] * query[3]


# place of the query among the arguments; operations for each query, key and dimension: 2 and 5 products, as on a GPU
_CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: (0, 4),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, 10),
}

"""A device that is not the CPU, emulated on the CPU: the same numbers, and an error where a tensor was left behind.

CI has no GPU. torch keeps a key for devices that are made elsewhere; here one kernel stands for all of its operators:
it runs the CPU's operator on the CPU tensors that stand behind the device's, and hands back tensors of the device.
As on a GPU, a tensor of the CPU beside one of the device is an error, but for what a GPU takes as well: numbers
without dimensions, rows to index with, and copies from one to the other.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils import _pytree as tree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "emulated"
_TAKES_BOTH = ("aten::index", "aten::_index_put", "aten::_copy_from", "aten::_to_copy")
# A storage of the device by the address of the CPU's that stands behind it, and the other way round.
_DEVICE: dict[int, torch.Tensor] = {}
_CPU: dict[int, torch.UntypedStorage] = {}
_META = torch._C.DispatchKey.Meta  # kernels that look at sizes and strides alone


class _Module(_DummyBackendModule):
    """What torch asks of a device; random numbers are the CPU generator's."""

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        torch.set_rng_state(state)


@functools.cache
def emulated_device() -> torch.device:
    """Return the device; the first call makes it known to torch, for the life of the process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    emulated_device.library = torch.library.Library("_", "IMPL")  # type: ignore[attr-defined]  # undone when collected
    emulated_device.library.fallback(_kernel, "PrivateUse1")  # type: ignore[attr-defined]
    aten = emulated_device.aten = torch.library.Library("aten", "IMPL")  # type: ignore[attr-defined]
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        aten.impl("gru.input", _gru, key)
    return torch.device(NAME, 0)


def forget() -> None:
    """Free all memory of the device; its tensors cannot be used any more."""
    _DEVICE.clear()
    _CPU.clear()


def _there(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def _held(value: Any) -> Any:
    """Return the CPU tensor of a device tensor: the same places of the storage that stands behind."""
    if not _there(value):
        return value
    storage = _CPU[value.untyped_storage()._cdata]
    return torch.empty(0, dtype=value.dtype).set_(storage, value.storage_offset(), value.shape, value.stride())


def _storage(held: torch.Tensor) -> torch.Tensor:
    """Return a device tensor with the storage that is a CPU tensor's."""
    storage = held.untyped_storage()
    if storage._cdata not in _DEVICE:
        made = torch._C._acc.create_empty_tensor([len(storage)], torch.uint8)
        _DEVICE[storage._cdata], _CPU[made.untyped_storage()._cdata] = made, storage
    return _DEVICE[storage._cdata]


def _place(value: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Let a device tensor stand for a CPU tensor."""
    torch.ops.aten.set_.source_Storage_storage_offset._op_dk(
        _META, value, _storage(held).untyped_storage(), held.storage_offset(), held.shape, held.stride()
    )
    return value


def _kernel(op: Any, *args: Any, **kwargs: Any) -> Any:
    flat, spec = tree.tree_flatten((args, kwargs))
    _check(op.name(), flat)
    if op.name() == "aten::_copy_from":
        _held(args[1]).copy_(_held(args[0]))
        return args[1]
    to_cpu = any(isinstance(value, torch.device) and value.type == "cpu" for value in flat)
    own = [torch.device("cpu") if isinstance(value, torch.device) else _held(value) for value in flat]
    positional, named = tree.tree_unflatten(own, spec)
    result = op(*positional, **named)
    given = {id(held): value for held, value in zip(own, flat, strict=True) if _there(value)}
    for held, value in zip(own, flat, strict=True):
        if _there(value) and held.shape != value.shape:  # an operator that sizes its output itself
            _place(value, held)

    known = any(_there(value) and not value.is_inference() for value in flat)

    def back(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or to_cpu:
            return value
        if id(value) in given:  # what is written in place is handed back
            return given[id(value)]
        # A view of a tensor that autograd knows is one too, in inference mode as well.
        with torch.inference_mode(torch.is_inference_mode_enabled() and not known):
            return _place(torch._C._acc.create_empty_tensor([0], value.dtype), value)

    return tree.tree_map(back, result)


def _gru(
    inputs: torch.Tensor, hidden: torch.Tensor, weights: list[torch.Tensor], *_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer without biases, batch first: torch's own step would call a kernel that the CPU does not have."""
    state, outputs = hidden[0], []
    for step in inputs.unbind(1):
        reset, update, new = (step @ weights[0].T).chunk(3, dim=1)
        of_reset, of_update, of_new = (state @ weights[1].T).chunk(3, dim=1)
        new = torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new)
        state = new + torch.sigmoid(update + of_update) * (state - new)
        outputs.append(state)
    return torch.stack(outputs, dim=1), state[None]


def _check(name: str, values: list[Any]) -> None:
    if name.startswith(_TAKES_BOTH):
        return
    for value in values:
        if isinstance(value, torch.Tensor) and value.dim() and not _there(value):
            raise RuntimeError(f"{name}: a tensor of the CPU, {tuple(value.shape)}, beside tensors of the device")

"""A pretend GPU on a torch without CUDA: values and gradients are the CPU's, places and their rules are a GPU's.

A tensor's storage carries a mark that says where it lies; views, parameters and subclasses have it without being asked.
What mixes both places fails as on a GPU (a product of both, `.numpy()`, a draw by a CPU generator), and every look at a
value, which makes the host wait, and every copy between the places is counted by the line of altq that asks for it.

It does not see what is asynchronous, captures of graphs, the numerics of a GPU's own kernels, its speed or its memory.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest import mock

import torch
import torchgen
import yaml
from torch import Tensor
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
ALTQ = str(Path(__file__).resolve().parents[1] / "altq")

BETWEEN_PLACES = {"copy_", "_to_copy", "set_"}
"""Operations that take tensors of both places."""

INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
"""Operations whose indices may lie on the CPU."""

WAITING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "_linalg_check_errors",
    "_linalg_eigh", "_linalg_svd", "linalg_eig",
}  # fmt: skip
"""Operations whose result the host waits for."""


def is_on_gpu(x: Tensor) -> bool:
    """Whether a tensor lies on the pretend GPU."""
    return not x.is_meta and getattr(x.untyped_storage(), "lies_on_gpu", False)


def put(x: Tensor, on_gpu: bool) -> Tensor:
    """Say where a tensor lies, and all that shares its memory."""
    if not x.is_meta:
        x.untyped_storage().lies_on_gpu = on_gpu
    return x


class _Copy(torch.autograd.Function):
    """A copy at the other place; its gradient goes back to the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to_gpu: bool) -> Tensor:
        return put(x.clone(), to_gpu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return put(grad.clone(), not is_on_gpu(grad)), None


class _Operations(TorchDispatchMode):
    """Looks at each operation that reaches a kernel."""

    def __init__(self, gpu: "PretendGPU") -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        indexes = args[1] if name in INDEXING and is_on_gpu(args[0]) else ()
        operands = [x for x in tree_leaves((args[0], args[2:]) if indexes else (args, kwargs)) if isinstance(x, Tensor)]
        if not any(map(is_on_gpu, operands)):
            # Gradients that are missing are zeros beside those that are there.
            return put(func(*args, **kwargs), True) if name == "zeros" and self.gpu.goes_back else func(*args, **kwargs)
        self.gpu.operations[func] += 1
        # CUDA takes single values of the CPU.
        places = {is_on_gpu(x) for x in operands if not x.is_meta and (x.dim() or is_on_gpu(x))}
        if len(places) > 1 and name not in BETWEEN_PLACES:
            shapes = [("cuda" if is_on_gpu(x) else "cpu", list(x.shape)) for x in operands]
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {shapes}")
        if any(isinstance(x, torch.Generator) for x in tree_leaves((args, kwargs))):
            raise RuntimeError(f"{func}: expected a generator of cuda, found one of cpu")
        masks = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indexes)
        if name in WAITING or masks:
            self.gpu.waits[_caller(), name] += 1
        if name == "copy_" and len(places) > 1:
            self.gpu.copied[_caller()] += args[1].nbytes
        outputs = func(*args, **kwargs)
        if name not in ("copy_", "_local_scalar_dense"):
            for x in tree_leaves(outputs):
                if isinstance(x, Tensor):
                    put(x, True if name not in BETWEEN_PLACES else is_on_gpu(operands[0]))
        return outputs


class PretendGPU(TorchFunctionMode):
    """As a context, the place that `device="cuda"` names.

    waits: {(file:line, operation): number}. copied: {file:line: bytes} between the places. operations: {operation: how
    often it ran on the GPU}.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copied: Counter[str] = Counter()
        self.operations: Counter[Any] = Counter()
        self.goes_back = False
        run_backward = torch.autograd._engine_run_backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            # torch takes this mode off for a backward pass, in which a checkpoint runs forward again.
            _push_mode(self)
            self.goes_back = any(map(is_on_gpu, args[0]))
            try:
                return run_backward(*args, **kwargs)
            finally:
                self.goes_back = False
                _pop_mode()

        self._contexts = [
            _Operations(self),
            mock.patch("torch.autograd._engine_run_backward", backward),
            # A checkpoint looks at devices where this mode does not see it.
            mock.patch.dict(torch.utils.checkpoint._allowed_determinism_checks_to_fns, default=lambda x: x.shape),
        ]

    def __enter__(self) -> Self:
        for context in self._contexts:
            context.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for context in reversed(self._contexts):
            context.__exit__(*error)

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, x = dict(kwargs or {}), args[0] if args and isinstance(args[0], Tensor) else None
        if x is not None:
            if func == Tensor.device.__get__:
                return GPU if is_on_gpu(x) else func(x)
            if func == Tensor.is_cuda.__get__:
                return is_on_gpu(x)
            if func in (Tensor.numpy, Tensor.__array__) and is_on_gpu(x):
                raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
            if func is Tensor.tolist and is_on_gpu(x):
                self.waits[_caller(), "tolist"] += 1  # it reads memory, and no operation reaches a kernel
            if func in (Tensor.cpu, Tensor.cuda):
                return self._moved(x, func is Tensor.cuda, x.dtype)
            if func is Tensor.__deepcopy__:
                copied = self.copied.copy()  # it copies into memory of which nothing says yet where it lies
                made = put(func(*args, **kwargs), is_on_gpu(x))
                self.copied = copied
                return made
            if func is Tensor.to:
                return self._to(x, *args[1:], **kwargs)
        device = kwargs.get("device")
        if device is None or func is torch._C._nn._parse_to or torch.device(device).type not in ("cpu", "cuda"):
            return func(*args, **kwargs)
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu and kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: expected a generator of cuda, found one of cpu")
        made = func(*args, **kwargs | {"device": "cpu"})
        return put(made.clone() if made is x and is_on_gpu(x) != on_gpu else made, on_gpu)

    def _to(self, x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            on_gpu, dtype = is_on_gpu(args[0]), args[0].dtype
        else:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
            if device is not None and device.type == "meta":
                return x.to(*args, **kwargs)
            on_gpu, dtype = device.type == "cuda" if device else is_on_gpu(x), dtype or x.dtype
        moved = self._moved(x, on_gpu, dtype)
        return moved.clone() if copy and moved is x else moved

    def _moved(self, x: Tensor, to_gpu: bool, dtype: torch.dtype) -> Tensor:
        converted = x if dtype == x.dtype else x.to(dtype)
        if x.is_meta or is_on_gpu(x) == to_gpu:
            return converted
        self.copied[_caller()] += converted.nbytes
        return _Copy.apply(converted, to_gpu)


def _caller() -> str:
    """The innermost line of altq that runs."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(ALTQ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "elsewhere"


def without_cuda_kernel(operations: Iterable[Any]) -> list[str]:
    """Those of these operations that have no CUDA kernel, by the declarations that torch's wheel has of all."""
    kernels = _kernels()
    names = {
        func: ".".join(filter(None, (func._schema.name.partition("::")[2], func._schema.overload_name)))
        for func in operations
    }
    return sorted(name for func, name in names.items() if "CUDA" not in kernels.get(name, {"CUDA"}))


@functools.cache
def _kernels() -> dict[str, set[str]]:
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = {entry["func"].partition("(")[0]: entry for entry in yaml.load(path.read_text(), yaml.CSafeLoader)}

    def kernels(entry: dict[str, Any]) -> set[str]:
        if "structured_delegate" in entry:
            return kernels(entries[entry["structured_delegate"]])
        keys = {key.strip() for listed in entry.get("dispatch", {"Composite": ""}) for key in listed.split(",")}
        return keys | {"CUDA"} if "ufunc_inner_loop" in entry or any("Composite" in key for key in keys) else keys

    return {name: kernels(entry) for name, entry in entries.items()}

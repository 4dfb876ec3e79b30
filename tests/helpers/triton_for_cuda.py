"""Compile the Triton kernels of a form for NVIDIA GPUs, without one: Triton brings NVIDIA's assembler.

    python tests/helpers/triton_for_cuda.py small|large CAPABILITY...

Run in a process of its own, for in a process that interprets kernels Triton cannot compile them. Prints
one line a kernel: registers of a thread, bytes of its stack (spilled registers) and instructions.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from torch import Tensor, uint8
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from adderlab.engine.triton import engine
from oracle.random_tables import BIASES, random_tables, random_tokens, table_form

FORMS = {
    "small": (table_form("P"), ()),
    "large": (
        table_form(
            "M14", heads=4, key=16, value=16, width=32, hidden=64, norm2="layer", activation="swiglu"
        ),
        BIASES,
    ),
}
KERNELS = ("attend", "head", "query_gradient", "key_gradient")


class Recorder:
    """Stands in for a kernel and keeps what it was to be started with."""

    def __init__(self, kernel: Any, calls: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def start(*args: Any, **kwargs: Any) -> None:
            named = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
            self.calls.append((self.kernel, named))

        return start


def compile_for(kernel: Any, arguments: dict[str, Any], capability: int) -> Any:
    signature, constants = {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(index,)] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = "*u8" if value.dtype == uint8 else "*fp32"
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    return triton.compile(
        ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32)
    )


def describe(compiled: Any) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        usage, code = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    words = dict(
        word.split(":")[:2] for word in usage.split() if word.count(":") == 1 and word[-1] != ":"
    )
    return f"registers {words['REG']}, stack {words['STACK']}, instructions {code.count(' ;')}"


def main(size: str, *capabilities: str) -> None:
    form, biases = FORMS[size]
    calls: list[tuple[Any, dict[str, Any]]] = []
    for name in KERNELS:
        setattr(engine, name, Recorder(getattr(engine, name), calls))
    tables, tokens = random_tables(form, 1, biases), random_tokens(form, 1, 4)
    engine.TritonEngine().loss_and_grad(tables, *tokens)
    engine.TritonEngine().margins(tables, *tokens)
    engine.TritonEngine().decode(tables, tokens[0][..., : form.layout.num_prompt])
    done = set()
    for kernel, arguments in calls:
        what = f"{kernel.__name__} {arguments.get('GOAL', '')}".strip()
        for capability in capabilities:
            if (what, capability) not in done:
                done.add((what, capability))
                print(
                    f"sm_{capability} {what}:", describe(compile_for(kernel, arguments, int(capability)))
                )


if __name__ == "__main__":
    main(*sys.argv[1:])

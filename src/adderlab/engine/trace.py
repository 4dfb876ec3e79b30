"""A function of tensors as the bare list of operations it comes down to on inputs of given shapes.

What depends on no input (rotary angles, fixed positions, lists of rows) is computed once, on the CPU
as ever, and put on the device, so that running the list copies nothing there. Its operations are those
of the function, in the same order; a derivative loses the forward operations it does not need.

The shapes must not depend on the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import Function

Run = Callable[..., Sequence[Tensor]]


def trace(function: Function, shapes: Sequence[tuple[int, ...]], device: torch.device) -> Run:
    """The function's operations for float32 inputs of these shapes on this device."""
    # Importing what traces takes a second, and is needed only here.
    from torch.fx import Node
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.node import map_arg

    examples = [torch.ones(shape) for shape in shapes]
    function(*examples)  # what it keeps for later calls must not become part of the trace
    module = make_fx(function)(*examples)
    graph, known = module.graph, dict[Node, Any]()
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target))
        elif node.op == "call_function":
            if all(source in known for source in node.all_input_nodes):
                arguments = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*arguments[0], **arguments[1])
                continue
            schema = getattr(node.target, "_schema", None)  # taking one of several results has none
            changes = schema is not None and schema.is_mutable
            assert not (changes and node.args[0] in known), f"{node} writes into a constant"
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": device}

    constants = {
        node: value
        for node, value in known.items()
        if isinstance(value, Tensor) and any(user not in known for user in node.users)
    }
    for number, (node, value) in enumerate(constants.items()):
        name = f"constant_{number}"
        module.register_buffer(name, value.detach().to(device))
        with graph.inserting_before(node):
            place = graph.get_attr(name)
        node.replace_all_uses_with(place, delete_user_cb=lambda user: user not in known)
    graph.eliminate_dead_code()
    module.recompile()
    return module

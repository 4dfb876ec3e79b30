"""The second half of a block: fc2(act(fc1(x))), or SwiGLU: fc2(silu(gate(x)) * fc1(x)).

Shapes: S seeds, D width, F hidden units.
"""

from typing import cast

from torch import Tensor, nn

from adderlab.models.components import (
    InputRotated,
    Linear,
    Map,
    Scaled,
    Stacked,
    Transposed,
    linear,
    scope,
)
from adderlab.models.config import ModelConfig
from adderlab.models.sparse import CarryDown, SparseGate

DOWN_ANGLE = 0.1
"""Where the angle of a rotated down = up^T starts (M10S)."""


class MLP(nn.Module):
    """GELU (exact), ReLU or SwiGLU (arXiv 2002.05202), with its maps own or shared."""

    def __init__(self, config: ModelConfig, head: Map | None) -> None:
        """``head``: the output head's map where the model has one."""
        super().__init__()
        D, F, r, bias = config.d_model, config.d_ff, config.ffn_rank, config.bias != "none"
        self.activation = config.activation
        self.fc1 = linear(D, F, r, bias=bias)
        if config.activation == "swiglu":
            self.gate = _gate(config, self.fc1)
        if config.fc2 == "map":
            self.fc2: Map = linear(F, D, r, bias=bias)
        elif config.fc2 == "head":
            self.fc2 = Transposed(cast(Linear, head))
        elif config.fc2 == "up_transpose":
            self.fc2 = Transposed(self.fc1)
        elif config.fc2 == "rotated_up_transpose":
            self.fc2 = InputRotated(Transposed(self.fc1), DOWN_ANGLE)
        else:
            self.fc2 = CarryDown(cast(Linear, self.fc1), cast(SparseGate, self.gate))

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return self.fc2(nn.functional.silu(self.gate(x)) * self.fc1(x))
        act = nn.functional.gelu if self.activation == "gelu" else nn.functional.relu
        return self.fc2(act(self.fc1(x)))

    def dense(self, params: Stacked) -> dict[str, Tensor]:
        """The tables fc1_SDF, fc2_SFD and, where the model has them, gate_SDF and the biases."""
        result = {
            "fc1": self.fc1.dense(scope(params, "fc1")),
            "fc2": self.fc2.dense(scope(params, "fc2")),
        }
        if self.activation == "swiglu":
            result["gate"] = self.gate.dense(scope(params, "gate"))
        for name in ("fc1", "fc2"):
            if f"{name}.bias" in params:
                result[f"{name}_bias"] = params[f"{name}.bias"]
        return result


def _gate(config: ModelConfig, up: Map) -> Map:
    if config.gate == "scaled_up":
        return Scaled(up)
    if config.gate == "sparse":
        return SparseGate(config.d_model, config.d_ff)
    return linear(config.d_model, config.d_ff, config.ffn_rank)

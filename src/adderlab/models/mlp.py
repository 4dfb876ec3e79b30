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
    padded,
    scope,
)
from adderlab.models.config import ModelConfig
from adderlab.models.frugal import MirroredDown, MirroredUp
from adderlab.models.sparse import CarryDown, SparseGate

DOWN_ANGLE = 0.1
"""Where the angle of a rotated down = up^T starts (M10S)."""


class MLP(nn.Module):
    """GELU (exact), ReLU or SwiGLU (arXiv 2002.05202), with its maps own or shared."""

    def __init__(self, config: ModelConfig, head: Map | None) -> None:
        """``head``: the output head's map where the model has one."""
        super().__init__()
        D, F, r, bias = config.content_width, config.d_ff, config.ffn_rank, config.bias != "none"
        self.activation = config.activation
        self.content, self.rest = D, config.d_model - D
        self.fc1: Map
        if config.mirror == "none":
            self.fc1 = linear(D, F, r, bias=bias)
        else:
            self.fc1 = MirroredUp(D, F, unit=config.mirror != "pairs")
        if config.activation == "swiglu":
            self.gate = _gate(config, self.fc1)
        if config.mirror != "none":
            self.fc2: Map = MirroredDown(F, D, even=config.mirror == "even_pairs")
        elif config.fc2 == "map":
            self.fc2 = linear(F, D, r, bias=bias)
        elif config.fc2 == "head":
            self.fc2 = Transposed(cast(Linear, head))
        elif config.fc2 == "up_transpose":
            self.fc2 = Transposed(self.fc1)
        elif config.fc2 == "rotated_up_transpose":
            self.fc2 = InputRotated(Transposed(self.fc1), DOWN_ANGLE)
        else:
            self.fc2 = CarryDown(cast(Linear, self.fc1), cast(SparseGate, self.gate))

    def forward(self, x: Tensor) -> Tensor:
        return padded(self._of_content(x[..., : self.content]), -1, after=self.rest)

    def _of_content(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return self.fc2(nn.functional.silu(self.gate(x)) * self.fc1(x))
        act = nn.functional.gelu if self.activation == "gelu" else nn.functional.relu
        return self.fc2(act(self.fc1(x)))

    def dense(self, params: Stacked) -> dict[str, Tensor]:
        """The tables fc1_SDF, fc2_SFD and, where the model has them, gate_SDF and the biases."""
        result = {
            "fc1": padded(self.fc1.dense(scope(params, "fc1")), 1, after=self.rest),
            "fc2": padded(self.fc2.dense(scope(params, "fc2")), 2, after=self.rest),
        }
        if self.activation == "swiglu":
            result["gate"] = padded(self.gate.dense(scope(params, "gate")), 1, after=self.rest)
        for name in ("fc1", "fc2"):
            if f"{name}.bias" in params:
                result[f"{name}_bias"] = params[f"{name}.bias"]
        return result


def _gate(config: ModelConfig, up: Map) -> Map:
    if config.gate == "scaled_up":
        return Scaled(up)
    if config.gate == "sparse":
        return SparseGate(config.content_width, config.d_ff)
    return linear(config.content_width, config.d_ff, config.ffn_rank)

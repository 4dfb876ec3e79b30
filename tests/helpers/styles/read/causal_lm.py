"""In the manner of a library: an output object, a mask of the smallest number, position ids."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class CausalLMOutput:
    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: tuple[Tensor, ...] | None = None


class RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


def rotate_half(x: Tensor) -> Tensor:
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def repeat_kv(hidden_states: Tensor, n_rep: int) -> Tensor:
    batch, heads, length, width = hidden_states.shape
    hidden_states = hidden_states[:, :, None, :, :].expand(batch, heads, n_rep, length, width)
    return hidden_states.reshape(batch, heads * n_rep, length, width)


class RotaryEmbedding(nn.Module):
    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10.0) -> None:
        super().__init__()
        inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        expanded = self.inv_freq[None, :, None].float().expand(position_ids.shape[0], -1, 1)
        freqs = (expanded @ position_ids[:, None, :].float()).transpose(1, 2)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos().to(x.dtype), emb.sin().to(x.dtype)


class TinyForCausalLM(nn.Module):
    def __init__(self, hidden: int = 8, heads: int = 2, groups: int = 1, vocab: int = 13) -> None:
        super().__init__()
        self.heads, self.groups, self.width = heads, groups, hidden // heads
        self.embed_tokens = nn.Embedding(vocab, hidden)
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, groups * self.width, bias=False)
        self.v_proj = nn.Linear(hidden, groups * self.width, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.width), RMSNorm(self.width)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(hidden), RMSNorm(hidden)
        self.norm = RMSNorm(hidden)
        self.gate_proj, self.up_proj = (nn.Linear(hidden, 12, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(12, hidden, bias=False)
        self.rotary_emb = RotaryEmbedding(self.width)
        self.act_fn = nn.SiLU()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutput:
        assert input_ids is not None
        hidden_states = self.embed_tokens(input_ids)
        batch, length, _ = hidden_states.shape
        position_ids = torch.arange(length, device=input_ids.device).unsqueeze(0)
        cos, sin = self.rotary_emb(hidden_states, position_ids)
        residual, hidden_states = hidden_states, self.input_layernorm(hidden_states)
        shape = (batch, length, -1, self.width)
        query = self.q_norm(self.q_proj(hidden_states).view(shape)).transpose(1, 2)
        key = self.k_norm(self.k_proj(hidden_states).view(shape)).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        query = query * cos + rotate_half(query) * sin
        key = key * cos + rotate_half(key) * sin
        key, value = (repeat_kv(x, self.heads // self.groups) for x in (key, value))
        weights = torch.matmul(query, key.transpose(2, 3)) * self.width**-0.5
        smallest = torch.finfo(weights.dtype).min
        causal = torch.full((length, length), smallest, dtype=weights.dtype)
        causal = torch.triu(causal, diagonal=1)[None, None, :, :]
        if attention_mask is not None:
            causal = causal.masked_fill(attention_mask[:, None, None, :] == 0, smallest)
        weights = weights + causal
        weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
        weights = nn.functional.dropout(weights, p=0.1, training=self.training)
        output = torch.matmul(weights, value).transpose(1, 2).contiguous().reshape(batch, length, -1)
        hidden_states = residual + self.o_proj(output)
        residual, hidden_states = hidden_states, self.post_attention_layernorm(hidden_states)
        gated = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        hidden_states = self.norm(residual + self.down_proj(gated))
        logits = nn.functional.linear(hidden_states, self.embed_tokens.weight)
        return CausalLMOutput(logits=logits.float())


def build_model() -> tuple[TinyForCausalLM, dict[str, int]]:
    return TinyForCausalLM().eval(), {"layers": 1}


@torch.inference_mode()
def add(model: TinyForCausalLM, a: int, b: int) -> int:
    bos, plus, equals = 10, 11, 12
    digits_a, digits_b = (list(map(int, str(x).zfill(10))) for x in (a, b))
    input_ids = torch.tensor([[bos, *digits_a, plus, *digits_b, equals]])
    for _ in range(11):
        out = model(input_ids=input_ids, attention_mask=None)
        next_token = out.logits[:, -1, :].argmax(dim=-1, keepdim=True)
        input_ids = torch.cat([input_ids, next_token], dim=-1)
    return sum(d * 10**i for i, d in enumerate(input_ids[0, 23:].tolist()))

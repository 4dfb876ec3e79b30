"""Rotations by complex numbers, as LLaMA's own code has them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def precompute_freqs_cis(dim: int, end: int, theta: float = 100.0) -> Tensor:
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2)[: (dim // 2)].float() / dim))
    freqs = torch.outer(torch.arange(end), freqs)
    return torch.polar(torch.ones_like(freqs), freqs)


def apply_rotary_emb(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
    xq_ = torch.view_as_complex(xq.float().reshape(*xq.shape[:-1], -1, 2))
    xk_ = torch.view_as_complex(xk.float().reshape(*xk.shape[:-1], -1, 2))
    freqs_cis = freqs_cis.view(1, xq_.shape[1], 1, xq_.shape[-1])
    xq_out = torch.view_as_real(xq_ * freqs_cis).flatten(3)
    xk_out = torch.view_as_real(xk_ * freqs_cis).flatten(3)
    return xq_out.type_as(xq), xk_out.type_as(xk)


class Transformer(nn.Module):
    def __init__(self, dim: int = 8, n_heads: int = 2, vocab_size: int = 12) -> None:
        super().__init__()
        self.n_heads, self.head_dim = n_heads, dim // n_heads
        self.tok_embeddings = nn.Embedding(vocab_size, dim)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.w1, self.w3 = (nn.Linear(dim, 12, bias=False) for _ in range(2))
        self.w2 = nn.Linear(12, dim, bias=False)
        self.attention_norm, self.ffn_norm, self.norm = (nn.RMSNorm(dim, eps=1e-5) for _ in range(3))
        self.output = nn.Linear(dim, vocab_size, bias=False)
        self.freqs_cis = precompute_freqs_cis(self.head_dim, 128)

    def forward(self, tokens: Tensor, start_pos: int = 0) -> Tensor:
        bsz, seqlen = tokens.shape
        h = self.tok_embeddings(tokens)
        freqs_cis = self.freqs_cis[start_pos : start_pos + seqlen]
        x = self.attention_norm(h)
        xq, xk, xv = (w(x).view(bsz, seqlen, self.n_heads, -1) for w in (self.wq, self.wk, self.wv))
        xq, xk = apply_rotary_emb(xq, xk, freqs_cis)
        xq, keys, values = (y.transpose(1, 2) for y in (xq, xk, xv))
        scores = torch.matmul(xq, keys.transpose(2, 3)) / self.head_dim**0.5
        mask = torch.triu(torch.full((seqlen, seqlen), float("-inf")), diagonal=start_pos + 1)
        scores = functional.softmax((scores + mask).float(), dim=-1).type_as(xq)
        attended = torch.matmul(scores, values).transpose(1, 2).contiguous().view(bsz, seqlen, -1)
        h = h + self.wo(attended)
        y = self.ffn_norm(h)
        h = h + self.w2(functional.silu(self.w1(y)) * self.w3(y))
        return self.output(self.norm(h)).float()


def build_model() -> tuple[Transformer, dict[str, int]]:
    return Transformer(), {"dim": 8}


@torch.inference_mode()
def add(model: Transformer, a: int, b: int) -> int:
    tokens = torch.tensor([[*map(int, f"{a:010d}"), 10, *map(int, f"{b:010d}"), 11]])
    for _ in range(11):
        logits = model.forward(tokens, 0)
        tokens = torch.cat([tokens, torch.argmax(logits[:, -1], dim=-1)[:, None]], dim=1)
    return int("".join(map(str, reversed(tokens[0, -11:].tolist()))))

"""The transformer layer that the ViT encoder and the temporal fusion share, and its pieces.

Parameter names are those of the released weights (`attn.attn.in_proj_weight`, `ffn.layers.0.0.weight`, ...).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_ROWS = 65_535  # CUDA's fused attention puts the rows on a grid axis that ends there


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention of (N, heads, L, D) tensors, in slices of at most MAX_ROWS of the N rows.

    bias: added to the logits, or bool with False = not attended; broadcasts over (N, heads, L_q, L_k); 4 dimensions.
    scale: of the logits, by default 1 / sqrt(D).
    """
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(query.dtype)
    if query.shape[0] <= MAX_ROWS:  # len() would fix the batch of an exported graph
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    parts = []
    for start in range(0, len(query), MAX_ROWS):
        rows = slice(start, start + MAX_ROWS)
        part = bias[rows] if bias is not None and len(bias) > 1 else bias
        parts.append(F.scaled_dot_product_attention(query[rows], key[rows], value[rows], attn_mask=part, scale=scale))
    return torch.cat(parts)


class DropPath(nn.Module):
    """Zeros for a share `rate` of the samples in training, the others divided by 1 - rate; else the input."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand(len(x), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class FeedForward(nn.Module):
    """Linear, exact GELU, Linear over the last axis; the residual is the caller's."""

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), nn.GELU()), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; parameters named as in `nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, allowed: Tensor | None = None, queries: int | None = None) -> Tensor:
        """(N, L, D) -> (N, queries, D), of the first `queries` positions (all by default).

        allowed: (N, L) bool, positions that may be attended to; a row must have one.
        """
        dim = x.shape[-1]
        asked = F.linear(x[:, :queries], self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        key, value = F.linear(x, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        bias = None if allowed is None else allowed[:, None, None]  # (N, L) -> (N, 1, 1, L)
        out = attend(self._split(asked), self._split(key), self._split(value), bias)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # (N, heads, L, D / heads) -> (N, L, D)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, L, D) -> (N, heads, L, D / heads)


class Layer(nn.Module):
    """Pre-norm transformer layer; stochastic depth on the feed-forward branch only, as the released models train."""

    def __init__(self, dim: int, heads: int, *, mlp: float = 4.0, drop_path: float = 0.0, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = nn.ModuleDict({"attn": SelfAttention(dim, heads)})
        self.ln2 = nn.LayerNorm(dim, eps=norm_eps)
        self.ffn = FeedForward(dim, mlp)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, allowed: Tensor | None = None, queries: int | None = None) -> Tensor:
        """(N, L, D) -> (N, queries, D); `allowed` and `queries` as in SelfAttention."""
        x = x[:, :queries] + self.attn["attn"](self.ln1(x), allowed, queries)
        return x + self.drop_path(self.ffn(self.ln2(x)))


def init_linear(module: nn.Module) -> None:
    """For `Module.apply`: weights that keep the variance (Glorot) and zero biases in every Linear.

    Paper silent. The customary deviation of 0.02 is about right at 1024 channels, but silences models of 64.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

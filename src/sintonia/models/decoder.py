"""Llama-shaped layers with forward and backward written out.

The model's own modules stay where they are, with their names and their adapters; only the
``forward`` of each layer is replaced. What is gained: linear layers that read the same input are
one product, LoRA's gradients share theirs, rotations happen in place, and the backward pass
recomputes norms and activations instead of keeping them.

Shapes: T tokens, M model width, H heads, K key heads, D of a head, F feed-forward width, I in,
O out, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import PreTrainedModel

from sintonia.data.forest import EncodedSequence, build_forest
from sintonia.models import attention
from sintonia.models.attention import ForestOnDevice
from sintonia.models.blocks import Attended, Blocks, Projected, attend_backward, attend_forward
from sintonia.models.lora import LoraLinear

_LLAMA_SHAPED = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"})
_TOLERANCE = 1e-4
"""Largest difference of two answers, as a part of the largest logit, that rounding may leave."""
_silu_backward = torch.ops.aten.silu_backward


@torch.no_grad()
def fuse(model: PreTrainedModel) -> bool:
    """Replace the forward of the layers; tell whether that was done.

    Adapters must be attached before. Layers of another shape, on another device, or with weights
    that are trained or not merged stay as they are; so do all when the fused ones answer
    otherwise than the modules.
    """
    layers: list[Any] = [m for m in model.modules() if type(m).__name__ in _LLAMA_SHAPED]
    if not layers or not attention.is_used_by(model) or not all(map(_is_plain, layers)):
        return False
    before = _answer(model)
    for layer in layers:
        layer.forward = _FusedLayer(layer)
    if (_answer(model) - before).abs().max() <= _TOLERANCE * before.abs().max():
        return True
    for layer in layers:
        del layer.forward
    return False


def _answer(model: PreTrainedModel) -> Tensor:
    """Return the logits of two rows that share a beginning."""
    rows = [np.array([1, 2, 3, 4, *tail], dtype=np.int32) for tail in ((5, 6), (7, 8, 9))]
    forest = build_forest([EncodedSequence(row, 1, 1.0, n) for n, row in enumerate(rows)])
    pattern = ForestOnDevice(forest, model.device)
    ids = torch.from_numpy(forest.tokens_T)[None]
    positions = pattern.positions_T[None]
    output = model(input_ids=ids, position_ids=positions, use_cache=False, forest=pattern)
    logits: Tensor = output.logits
    return logits


def _is_plain(layer: Any) -> bool:
    """Tell whether a layer computes with frozen float32 weights on a processor."""
    modules: list[Any] = list(layer.modules())
    adapters = [m for m in modules if isinstance(m, LoraLinear)]
    bases = [m for m in modules if isinstance(m, nn.Linear)]
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    frozen = [module.weight for module in [*bases, *norms]]
    return (
        layer.mlp.config.hidden_act == "silu"
        and all(module.is_merged for module in adapters)
        and all(w.dtype == torch.float32 and w.device.type == "cpu" for w in frozen)
        and not any(w.requires_grad for w in frozen)
    )


class _Joined:
    """Linear layers that read the same input, as one product ``x W^T`` with W [O, I]."""

    def __init__(self, *layers: nn.Module) -> None:
        self._lora = [layer for layer in layers if isinstance(layer, LoraLinear)]
        bases: list[Any] = [getattr(layer, "base", layer) for layer in layers]
        sizes = [base.weight.shape[0] for base in bases]
        self._sizes = sizes
        spans = [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
        self._spans = [
            span for layer, span in zip(layers, spans, strict=True) if isinstance(layer, LoraLinear)
        ]
        weights = [base.weight.detach() for base in bases]
        is_own = len(weights) == 1 and not self._lora
        self._weight_OI = weights[0] if is_own else torch.cat(weights)
        for layer, span in zip(self._lora, self._spans, strict=True):
            layer.merge_into(self._weight_OI[span])
        biases = [base.bias for base in bases]
        self._bias_O = None if biases[0] is None else torch.cat([b.detach() for b in biases])

    def parts(self) -> Sequence[Tensor]:
        """Return the part of each layer in W."""
        return self._weight_OI.split(self._sizes)

    @property
    def factors(self) -> list[Tensor]:
        """A and B of each adapter, in the order that :meth:`gradients` returns."""
        return [factor for layer in self._lora for factor in (layer.lora_a, layer.lora_b)]

    def weight(self) -> Tensor:
        """Return W with the adapters' updates merged in."""
        for layer in self._lora:
            layer.merged()
        return self._weight_OI

    def apply(self, x_TI: Tensor) -> Tensor:
        """Return ``x W^T + b``."""
        weight = self.weight()
        if self._bias_O is None:
            return x_TI @ weight.t()
        return torch.addmm(self._bias_O, x_TI, weight.t())

    def add_to(self, residual_TO: Tensor, x_TI: Tensor) -> Tensor:
        """Return ``residual + x W^T + b``."""
        y = torch.addmm(residual_TO, x_TI, self.weight().t())
        return y if self._bias_O is None else y.add_(self._bias_O)

    def gradients(self, x_TI: Tensor, grad_TO: Tensor) -> list[Tensor]:
        """Return the gradients of :attr:`factors`; those of all A and all x A^T are one product."""
        if not self._lora:
            return []
        a_RI = torch.cat([layer.lora_a.detach() for layer in self._lora])
        reduced_TR = x_TI @ a_RI.t()
        back_TR = torch.empty_like(reduced_TR)
        grads_b, place = [], 0
        for layer, span in zip(self._lora, self._spans, strict=True):
            ranks = slice(place, place + layer.lora_a.shape[0])
            place = ranks.stop
            torch.mm(grad_TO[:, span], layer.lora_b.detach(), out=back_TR[:, ranks])
            back_TR[:, ranks].mul_(layer.scale)
            grads_b.append((grad_TO[:, span].t() @ reduced_TR[:, ranks]).mul_(layer.scale))
        grads_a = (back_TR.t() @ x_TI).split([layer.lora_a.shape[0] for layer in self._lora])
        return [grad for pair in zip(grads_a, grads_b, strict=True) for grad in pair]


@dataclass(frozen=True)
class _Norm:
    """RMSNorm (Zhang & Sennrich 2019) with a frozen weight."""

    weight_M: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> _Norm:
        """Read a module of transformers."""
        return cls(module.weight.detach(), module.variance_epsilon)

    def inverse(self, x_TM: Tensor) -> Tensor:
        """Return ``1 / rms(x)``: [T, 1]."""
        mean_T1 = torch.linalg.vecdot(x_TM, x_TM)[:, None].div_(x_TM.shape[1])
        return mean_T1.add_(self.epsilon).rsqrt_()

    def apply(self, x_TM: Tensor, inverse_T1: Tensor) -> Tensor:
        """Return the normed input."""
        return torch.mul(x_TM, inverse_T1).mul_(self.weight_M)

    def backward(self, grad_TM: Tensor, x_TM: Tensor, inverse_T1: Tensor) -> Tensor:
        """Return the gradient to ``x``; overwrites ``grad_TM``."""
        grad_TM.mul_(self.weight_M)
        mean_T1 = torch.linalg.vecdot(grad_TM, x_TM)[:, None].div_(x_TM.shape[1])
        mean_T1.mul_(inverse_T1.pow(3))
        return grad_TM.mul_(inverse_T1).addcmul_(x_TM, mean_T1, value=-1)


@dataclass(frozen=True)
class _Rotation:
    """Rotary position embedding (Su et al. 2021) of this forest's positions: [T, 1, D/2]."""

    cos: Tensor
    sin: Tensor

    def turn(self, x_THD: Tensor) -> None:
        """Rotate queries and keys in place."""
        self._turn(x_THD, self.sin)

    def turn_back(self, x_THD: Tensor) -> None:
        """Undo :meth:`turn`, which is also its gradient."""
        self._turn(x_THD, -self.sin)

    def _turn(self, x_THD: Tensor, sin: Tensor) -> None:
        first, second = x_THD.chunk(2, dim=2)
        turned = first * self.cos - second * sin
        second.mul_(self.cos).addcmul_(first, sin)
        first.copy_(turned)


@dataclass(frozen=True)
class _Call:
    """What one forward pass hands to every layer."""

    blocks: Blocks
    rotation: _Rotation


class _FusedLayer:
    """The forward of one layer, in place of its module's own."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        attention, mlp = layer.self_attn, layer.mlp
        self.norm_in = _Norm.of(layer.input_layernorm)
        self.norm_mid = _Norm.of(layer.post_attention_layernorm)
        self.qkv = _Joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _Joined(attention.o_proj)
        self.gate_up = _Joined(mlp.gate_proj, mlp.up_proj)
        self.down = _Joined(mlp.down_proj)
        self.scale: float = attention.scaling
        self.head_size: int = attention.head_dim
        self.num_heads, self.num_key_heads = (
            weight.shape[0] // self.head_size for weight in self.qkv.parts()[:2]
        )

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        forest: ForestOnDevice,
        **kwargs: Any,
    ) -> Tensor:
        """Compute the layer, fused where the forest allows it."""
        if forest.narrows(self._window):
            return type(self._layer).forward(
                self._layer,
                hidden_states,
                position_embeddings=position_embeddings,
                forest=forest,
                **kwargs,
            )
        forest.calls += 1
        half = self.head_size // 2
        cos, sin = (part[0, :, None, :half] for part in position_embeddings)
        call = _Call(forest.blocks, _Rotation(cos, sin))
        joined = (self.qkv, self.out, self.gate_up, self.down)
        factors = [factor for product in joined for factor in product.factors]
        y_TM: Tensor = _Layer.apply(hidden_states[0], self, call, *factors)
        return y_TM[None]

    @property
    def _window(self) -> int | None:
        """How far the layer looks; some families know it for each layer, some for the model."""
        attention = self._layer.self_attn
        holder = attention if hasattr(attention, "sliding_window") else attention.config
        window: int | None = getattr(holder, "sliding_window", None)
        return window

    def project(self, x_TM: Tensor, inverse_T1: Tensor, rotation: _Rotation) -> Tensor:
        """Return queries, keys and values, rotated: [T, H + 2K, D]."""
        qkv = self.qkv.apply(self.norm_in.apply(x_TM, inverse_T1))
        qkv_THD = qkv.view(len(x_TM), -1, self.head_size)
        rotation.turn(qkv_THD[:, : self.num_heads + self.num_key_heads])
        return qkv_THD

    def split(self, qkv_THD: Tensor) -> Projected:
        """Return the three as attention takes them."""
        heads = [self.num_heads, self.num_key_heads, self.num_key_heads]
        return Projected(*qkv_THD.transpose(0, 1)[None].split(heads, dim=1))


class _Layer(torch.autograd.Function):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    @staticmethod
    def forward(
        ctx: Any, x_TM: Tensor, layer: _FusedLayer, call: _Call, *_factors: Tensor
    ) -> Tensor:
        inverse_in = layer.norm_in.inverse(x_TM)
        qkv_THD = layer.project(x_TM, inverse_in, call.rotation)
        attended = attend_forward(layer.split(qkv_THD), call.blocks, layer.scale)
        out_TM = attended.out_BHTD.transpose(1, 2).reshape(len(x_TM), -1)
        mid_TM = layer.out.add_to(x_TM, out_TM)
        inverse_mid = layer.norm_mid.inverse(mid_TM)
        gate_up_TF = layer.gate_up.apply(layer.norm_mid.apply(mid_TM, inverse_mid))
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
        y_TM = layer.down.add_to(mid_TM, silu(gate_TF).mul_(up_TF))
        ctx.save_for_backward(
            x_TM, inverse_in, qkv_THD, out_TM, attended.lse_BHT, mid_TM, inverse_mid, gate_up_TF
        )
        ctx.layer, ctx.call = layer, call
        return y_TM

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        layer: _FusedLayer = ctx.layer
        x_TM, inverse_in, qkv_THD, out_TM, lse_BHT, mid_TM, inverse_mid, gate_up_TF = (
            ctx.saved_tensors
        )
        grad_mid, of_mlp = _mlp_backward(layer, grad_TM, mid_TM, inverse_mid, gate_up_TF)
        of_out = layer.out.gradients(out_TM, grad_mid)
        attended = Attended(_by_head(out_TM, layer.head_size), lse_BHT)
        grad_BHTD = _by_head(grad_mid @ layer.out.weight(), layer.head_size)
        call: _Call = ctx.call
        grad_qkv_THD = attend_backward(
            grad_BHTD, layer.split(qkv_THD), attended, call.blocks, layer.scale
        ).joined_THD
        call.rotation.turn_back(grad_qkv_THD[:, : layer.num_heads + layer.num_key_heads])
        grad_qkv = grad_qkv_THD.view(len(x_TM), -1)
        of_qkv = layer.qkv.gradients(layer.norm_in.apply(x_TM, inverse_in), grad_qkv)
        grad_x = None
        if ctx.needs_input_grad[0]:  # not that of the first layer
            grad_x = layer.norm_in.backward(grad_qkv @ layer.qkv.weight(), x_TM, inverse_in)
            grad_x.add_(grad_mid)
        return (grad_x, None, None, *of_qkv, *of_out, *of_mlp)


def _mlp_backward(
    layer: _FusedLayer, grad_TM: Tensor, mid_TM: Tensor, inverse_T1: Tensor, gate_up_TF: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient to what the second half of a layer reads, and those of its factors."""
    gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
    active_TF = silu(gate_TF)
    of_down = layer.down.gradients(active_TF * up_TF, grad_TM)
    grad_TF = grad_TM @ layer.down.weight()
    grad_gate_up = torch.empty_like(gate_up_TF)
    grad_gate, grad_up = grad_gate_up.chunk(2, dim=1)
    torch.mul(grad_TF, active_TF, out=grad_up)
    _silu_backward(grad_TF.mul_(up_TF), gate_TF, grad_input=grad_gate)
    of_gate_up = layer.gate_up.gradients(layer.norm_mid.apply(mid_TM, inverse_T1), grad_gate_up)
    grad_normed = grad_gate_up @ layer.gate_up.weight()
    grad_mid = layer.norm_mid.backward(grad_normed, mid_TM, inverse_T1).add_(grad_TM)
    return grad_mid, [*of_gate_up, *of_down]


def _by_head(x_TM: Tensor, head_size: int) -> Tensor:
    """Return [T, H * D] as [1, H, T, D], a view."""
    return x_TM.view(len(x_TM), -1, head_size).transpose(0, 1)[None]

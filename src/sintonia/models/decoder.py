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

from sintonia.data.cover import SMALL_TOKENS
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
    is_equal = bool((_answer(model) - before).abs().max() <= _TOLERANCE * before.abs().max())
    for layer in layers:
        if not is_equal:
            del layer.forward
        for adapter in layer.modules():
            if isinstance(adapter, LoraLinear):
                adapter.forget_merged()
    return is_equal


def _answer(model: PreTrainedModel) -> Tensor:
    """Return the logits of two rows with so long a beginning in common that it is a block."""
    stem = range(1, 2 + SMALL_TOKENS)
    rows = [np.array([*stem, *tail], dtype=np.int32) for tail in ((5, 6), (7, 8, 9))]
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


@dataclass(frozen=True)
class _Update:
    """Where one adapter's part of a joined product lies."""

    layer: LoraLinear
    outputs: slice
    ranks: slice
    """Among the rows of all A: first the trained ones, then those of a start that is taken off."""

    @property
    def trained(self) -> slice:
        """The trained ones of ``ranks``."""
        return slice(self.ranks.start, self.ranks.start + self.layer.lora_a.shape[0])


class _Joined:
    """Linear layers that read the same input, as one product ``x W^T`` with W [O, I].

    The adapters' updates are added to its result, ``s (x A^T) B^T``: unlike merging them into W
    that costs nothing for each step, only a little for each token, and needs no second W.
    """

    def __init__(self, *layers: nn.Module) -> None:
        bases: list[Any] = [getattr(layer, "base", layer) for layer in layers]
        self._sizes = [base.weight.shape[0] for base in bases]
        weights = [base.weight.detach() for base in bases]
        self._weight_OI = weights[0] if len(weights) == 1 else torch.cat(weights)
        for base, part in zip(bases, self.parts(), strict=True):
            base.weight.data = part  # the modules share the memory
        biases = [base.bias for base in bases]
        self._bias_O = None if biases[0] is None else torch.cat([b.detach() for b in biases])
        self._updates: list[_Update] = []
        first_rank = 0
        for layer, end, size in zip(layers, accumulate(self._sizes), self._sizes, strict=True):
            if isinstance(layer, LoraLinear):
                ranks = slice(first_rank, first_rank + layer.factors()[0].shape[0])
                self._updates.append(_Update(layer, slice(end - size, end), ranks))
                first_rank = ranks.stop

    def parts(self) -> Sequence[Tensor]:
        """Return the part of each layer in W."""
        return self._weight_OI.split(self._sizes)

    @property
    def factors(self) -> list[Tensor]:
        """A and B of each adapter, in the order of the gradients."""
        return [f for one in self._updates for f in (one.layer.lora_a, one.layer.lora_b)]

    def apply(self, x_TI: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layers' results, and ``x A^T`` for the backward pass."""
        weight_IO = self._weight_OI.t()
        y_TO = (
            x_TI @ weight_IO if self._bias_O is None else torch.addmm(self._bias_O, x_TI, weight_IO)
        )
        return y_TO, self._add_updates(y_TO, x_TI)

    def add_to(self, residual_TO: Tensor, x_TI: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``residual`` and the layers' results, and ``x A^T``."""
        y_TO = torch.addmm(residual_TO, x_TI, self._weight_OI.t())
        if self._bias_O is not None:
            y_TO.add_(self._bias_O)
        return y_TO, self._add_updates(y_TO, x_TI)

    def backward(
        self, grad_TO: Tensor, reduced_TR: Tensor, *, wants_input: bool = True
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the gradient to the input, ``s g B`` for :meth:`gradients`, and those to all B."""
        back_TR = torch.empty_like(reduced_TR)
        grads_b = []
        for one in self._updates:
            _, b_OR = one.layer.factors()
            part_TO, scale = grad_TO[:, one.outputs], one.layer.scale
            torch.mm(part_TO, b_OR, out=back_TR[:, one.ranks])
            back_TR[:, one.ranks].mul_(scale)
            grads_b.append((part_TO.t() @ reduced_TR[:, one.trained]).mul_(scale))
        if not wants_input:
            return grad_TO, back_TR, grads_b
        grad_TI = grad_TO @ self._weight_OI
        if self._updates:
            grad_TI.addmm_(back_TR, self._all_a())
        return grad_TI, back_TR, grads_b

    def gradients(self, x_TI: Tensor, back_TR: Tensor, grads_b: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of :attr:`factors`."""
        grads_RI = back_TR.t() @ x_TI
        grads_a = [grads_RI[one.trained] for one in self._updates]
        return [grad for pair in zip(grads_a, grads_b, strict=True) for grad in pair]

    def _add_updates(self, y_TO: Tensor, x_TI: Tensor) -> Tensor:
        if not self._updates:
            return x_TI.new_empty(len(x_TI), 0)
        reduced_TR = x_TI @ self._all_a().t()
        for one in self._updates:
            _, b_OR = one.layer.factors()
            part_TO = y_TO[:, one.outputs]
            part_TO.addmm_(reduced_TR[:, one.ranks], b_OR.t(), alpha=one.layer.scale)
        return reduced_TR

    def _all_a(self) -> Tensor:
        return torch.cat([one.layer.factors()[0] for one in self._updates])


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

    def project(
        self, x_TM: Tensor, inverse_T1: Tensor, rotation: _Rotation
    ) -> tuple[Tensor, Tensor]:
        """Return queries, keys and values, rotated: [T, H + 2K, D], and ``x A^T``."""
        qkv, reduced_TR = self.qkv.apply(self.norm_in.apply(x_TM, inverse_T1))
        qkv_THD = qkv.view(len(x_TM), -1, self.head_size)
        rotation.turn(qkv_THD[:, : self.num_heads + self.num_key_heads])
        return qkv_THD, reduced_TR

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
        qkv_THD, reduced_qkv = layer.project(x_TM, inverse_in, call.rotation)
        attended = attend_forward(layer.split(qkv_THD), call.blocks, layer.scale)
        out_TM = attended.out_BHTD.transpose(1, 2).reshape(len(x_TM), -1)
        mid_TM, reduced_out = layer.out.add_to(x_TM, out_TM)
        inverse_mid = layer.norm_mid.inverse(mid_TM)
        gate_up_TF, reduced_up = layer.gate_up.apply(layer.norm_mid.apply(mid_TM, inverse_mid))
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
        y_TM, reduced_down = layer.down.add_to(mid_TM, silu(gate_TF).mul_(up_TF))
        ctx.save_for_backward(
            *(x_TM, inverse_in, reduced_qkv, qkv_THD, out_TM, attended.lse_BHT, reduced_out),
            *(mid_TM, inverse_mid, reduced_up, gate_up_TF, reduced_down),
        )
        ctx.layer, ctx.call = layer, call
        return y_TM

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        layer: _FusedLayer = ctx.layer
        call: _Call = ctx.call
        x_TM, inverse_in, reduced_qkv, qkv_THD, out_TM, lse_BHT, reduced_out, *of_mlp = (
            ctx.saved_tensors
        )
        grad_mid, mlp_grads = _mlp_backward(layer, grad_TM, of_mlp)
        grad_out, back_out, out_b = layer.out.backward(grad_mid, reduced_out)
        out_grads = layer.out.gradients(out_TM, back_out, out_b)
        grad_qkv_THD = attend_backward(
            _by_head(grad_out, layer.head_size),
            layer.split(qkv_THD),
            Attended(_by_head(out_TM, layer.head_size), lse_BHT),
            call.blocks,
            layer.scale,
        ).joined_THD
        call.rotation.turn_back(grad_qkv_THD[:, : layer.num_heads + layer.num_key_heads])
        grad_qkv = grad_qkv_THD.view(len(x_TM), -1)
        grad_normed, back_qkv, qkv_b = layer.qkv.backward(
            grad_qkv, reduced_qkv, wants_input=ctx.needs_input_grad[0]
        )
        qkv_grads = layer.qkv.gradients(layer.norm_in.apply(x_TM, inverse_in), back_qkv, qkv_b)
        grad_x = None
        if ctx.needs_input_grad[0]:  # not that of the first layer
            grad_x = layer.norm_in.backward(grad_normed, x_TM, inverse_in).add_(grad_mid)
        return (grad_x, None, None, *qkv_grads, *out_grads, *mlp_grads)


def _mlp_backward(
    layer: _FusedLayer, grad_TM: Tensor, kept: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient to what the second half of a layer reads, and those of its factors."""
    mid_TM, inverse_T1, reduced_up, gate_up_TF, reduced_down = kept
    gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
    active_TF = silu(gate_TF)
    grad_TF, back_down, down_b = layer.down.backward(grad_TM, reduced_down)
    down_grads = layer.down.gradients(active_TF * up_TF, back_down, down_b)
    grad_gate_up = torch.empty_like(gate_up_TF)
    grad_gate, grad_up = grad_gate_up.chunk(2, dim=1)
    torch.mul(grad_TF, active_TF, out=grad_up)
    _silu_backward(grad_TF.mul_(up_TF), gate_TF, grad_input=grad_gate)
    grad_normed, back_up, up_b = layer.gate_up.backward(grad_gate_up, reduced_up)
    up_grads = layer.gate_up.gradients(layer.norm_mid.apply(mid_TM, inverse_T1), back_up, up_b)
    grad_mid = layer.norm_mid.backward(grad_normed, mid_TM, inverse_T1).add_(grad_TM)
    return grad_mid, [*up_grads, *down_grads]


def _by_head(x_TM: Tensor, head_size: int) -> Tensor:
    """Return [T, H * D] as [1, H, T, D], a view."""
    return x_TM.view(len(x_TM), -1, head_size).transpose(0, 1)[None]

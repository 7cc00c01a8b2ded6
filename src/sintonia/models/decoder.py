"""Llama-shaped layers with forward and backward written out.

The model's own modules stay where they are, with their names and their adapters; only the
``forward`` of each layer is replaced. What is gained: linear layers that read the same input are
one product, LoRA's gradients share theirs, rotations happen in place, and the backward pass
recomputes norms and activations instead of keeping them.

Shapes: T tokens, M model width, H heads, K key heads, D of a head, F feed-forward width, I in,
O out, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from sintonia.models.joined import Joined
from sintonia.models.lora import LoraLinear
from sintonia.models.quantized import Nf4Linear

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
        layer.forward = _FusedLayer(layer, is_last=layer is layers[-1])
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
    if any(isinstance(module, Nf4Linear) for module in modules):
        return False
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

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.cos)

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
    wanted_U: Tensor | None
    """The tokens whose results are asked for, ascending; ``None``: all."""

    def wanted(self, of_all: Tensor) -> Tensor:
        """Return the rows that are wanted."""
        return of_all if self.wanted_U is None else of_all.index_select(0, self.wanted_U)

    def among_all(self, of_wanted: Tensor) -> Tensor:
        """Return the rows at their places among zeros."""
        if self.wanted_U is None:
            return of_wanted
        room = of_wanted.new_zeros(self.rotation.num_tokens, of_wanted.shape[1])
        return room.index_copy_(0, self.wanted_U, of_wanted)

    def add_wanted(self, of_all: Tensor, of_wanted: Tensor) -> None:
        """Add the rows at their places."""
        if self.wanted_U is None:
            of_all.add_(of_wanted)
        else:
            of_all.index_add_(0, self.wanted_U, of_wanted)


class _FusedLayer:
    """The forward of one layer, in place of its module's own."""

    def __init__(self, layer: Any, *, is_last: bool) -> None:
        self._layer = layer
        self._is_last = is_last
        attention, mlp = layer.self_attn, layer.mlp
        self.norm_in = _Norm.of(layer.input_layernorm)
        self.norm_mid = _Norm.of(layer.post_attention_layernorm)
        self.qkv = Joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = Joined(attention.o_proj)
        self.gate_up = Joined(mlp.gate_proj, mlp.up_proj)
        self.down = Joined(mlp.down_proj)
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
        wanted_U = forest.wanted_U if self._is_last else None
        call = _Call(forest.blocks, _Rotation(cos, sin), wanted_U)
        factors = self.qkv.factors + self.out.factors
        mid_TM: Tensor = _AttentionHalf.apply(hidden_states.squeeze(0), self, call, *factors)
        y_TM: Tensor = _MlpHalf.apply(mid_TM, self, *self.gate_up.factors, *self.down.factors)
        return call.among_all(y_TM)[None]

    @property
    def _window(self) -> int | None:
        """How far the layer looks; some families know it for each layer, some for the model."""
        attention = self._layer.self_attn
        holder = attention if hasattr(attention, "sliding_window") else attention.config
        window: int | None = getattr(holder, "sliding_window", None)
        return window

    def project(self, x_TM: Tensor, inverse_T1: Tensor, rotation: _Rotation) -> Tensor:
        """Return queries, keys and values, rotated, and ``x A^T`` beside them: [T, P]."""
        qkv_TP = self.qkv.apply(self.norm_in.apply(x_TM, inverse_T1))
        rotation.turn(self._rotated(qkv_TP))
        return qkv_TP

    def attend(self, qkv_TP: Tensor, blocks: Blocks) -> Attended:
        """Return what each token attends to."""
        return attend_forward(self._split(qkv_TP), blocks, self.scale)

    def attend_backward(
        self, grad_out_TM: Tensor, qkv_TP: Tensor, attended: Attended, call: _Call
    ) -> Tensor:
        """Return the gradient to what :meth:`project` returned; ``x A^T`` has none yet."""
        grad_qkv = self.qkv.room_for_gradient(len(qkv_TP))
        grads, grad_BHTD = self._split(grad_qkv), by_head(grad_out_TM, self.head_size)
        attend_backward(grad_BHTD, self._split(qkv_TP), attended, call.blocks, self.scale, grads)
        call.rotation.turn_back(self._rotated(grad_qkv))
        return grad_qkv

    def _heads(self, qkv_TP: Tensor) -> Tensor:
        """Return queries, keys and values by head: [T, H + 2K, D], a view."""
        return self.qkv.results(qkv_TP).unflatten(1, (-1, self.head_size))

    def _rotated(self, qkv_TP: Tensor) -> Tensor:
        return self._heads(qkv_TP)[:, : self.num_heads + self.num_key_heads]

    def _split(self, qkv_TP: Tensor) -> Projected:
        """Return the three as attention takes them, views."""
        heads = [self.num_heads, self.num_key_heads, self.num_key_heads]
        return Projected(*self._heads(qkv_TP).transpose(0, 1)[None].split(heads, dim=1))


class _AttentionHalf(torch.autograd.Function):
    """``x + attention(norm(x))``, of the tokens that are wanted."""

    @staticmethod
    def forward(
        ctx: Any, x_TM: Tensor, layer: _FusedLayer, call: _Call, *_factors: Tensor
    ) -> Tensor:
        inverse_T1 = layer.norm_in.inverse(x_TM)
        qkv_TP = layer.project(x_TM, inverse_T1, call.rotation)
        attended = layer.attend(qkv_TP, call.blocks)
        out_TM = attended.out_BHTD.transpose(1, 2).reshape(len(x_TM), -1)
        mid_TM, reduced_TR = layer.out.add_to(call.wanted(x_TM), call.wanted(out_TM))
        ctx.save_for_backward(x_TM, inverse_T1, qkv_TP, out_TM, attended.lse_BHT, reduced_TR)
        ctx.layer, ctx.call = layer, call
        return mid_TM

    @staticmethod
    def backward(ctx: Any, grad_mid: Tensor) -> tuple[Tensor | None, ...]:
        layer: _FusedLayer = ctx.layer
        call: _Call = ctx.call
        x_TM, inverse_T1, qkv_TP, out_TM, lse_BHT, reduced_TR = ctx.saved_tensors
        grad_mid_TP = layer.out.joined_gradient(grad_mid)
        out_grads = layer.out.gradients(grad_mid_TP, call.wanted(out_TM), reduced_TR)
        grad_out = call.among_all(layer.out.input_gradient(grad_mid_TP))
        attended = Attended(by_head(out_TM, layer.head_size), lse_BHT)
        grad_qkv = layer.attend_backward(grad_out, qkv_TP, attended, call)
        normed_TM, reduced_TR = layer.norm_in.apply(x_TM, inverse_T1), layer.qkv.reduced(qkv_TP)
        qkv_grads = layer.qkv.gradients(grad_qkv, normed_TM, reduced_TR)
        grad_x = None
        if ctx.needs_input_grad[0]:  # not that of the first layer
            grad_normed = layer.qkv.input_gradient(grad_qkv)
            grad_x = layer.norm_in.backward(grad_normed, x_TM, inverse_T1)
            call.add_wanted(grad_x, grad_mid)
        return (grad_x, None, None, *qkv_grads, *out_grads)


class _MlpHalf(torch.autograd.Function):
    """``x + mlp(norm(x))``."""

    @staticmethod
    def forward(ctx: Any, x_TM: Tensor, layer: _FusedLayer, *_factors: Tensor) -> Tensor:
        inverse_T1 = layer.norm_mid.inverse(x_TM)
        gate_up_TP = layer.gate_up.apply(layer.norm_mid.apply(x_TM, inverse_T1))
        gate_TF, up_TF = layer.gate_up.results(gate_up_TP).chunk(2, dim=1)
        y_TM, reduced_TR = layer.down.add_to(x_TM, silu(gate_TF).mul_(up_TF))
        ctx.save_for_backward(x_TM, inverse_T1, gate_up_TP, reduced_TR)
        ctx.layer = layer
        return y_TM

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        layer: _FusedLayer = ctx.layer
        x_TM, inverse_T1, gate_up_TP, reduced_TR = ctx.saved_tensors
        gate_TF, up_TF = layer.gate_up.results(gate_up_TP).chunk(2, dim=1)
        active_TF = silu(gate_TF)
        grad_TP = layer.down.joined_gradient(grad_TM)
        down_grads = layer.down.gradients(grad_TP, active_TF * up_TF, reduced_TR)
        grad_TF = layer.down.input_gradient(grad_TP)
        grad_gate_up = layer.gate_up.room_for_gradient(len(x_TM))
        grad_gate, grad_up = layer.gate_up.results(grad_gate_up).chunk(2, dim=1)
        torch.mul(grad_TF, active_TF, out=grad_up)
        _silu_backward(grad_TF.mul_(up_TF), gate_TF, grad_input=grad_gate)
        normed_TM = layer.norm_mid.apply(x_TM, inverse_T1)
        up_grads = layer.gate_up.gradients(
            grad_gate_up, normed_TM, layer.gate_up.reduced(gate_up_TP)
        )
        grad_normed = layer.gate_up.input_gradient(grad_gate_up)
        grad_x = layer.norm_mid.backward(grad_normed, x_TM, inverse_T1).add_(grad_TM)
        return (grad_x, None, *up_grads, *down_grads)


def by_head(x_TM: Tensor, head_size: int) -> Tensor:
    """Return [T, H * D] as [1, H, T, D], a view."""
    return x_TM.view(len(x_TM), -1, head_size).transpose(0, 1)[None]

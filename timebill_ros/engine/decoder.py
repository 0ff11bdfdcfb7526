# SPDX-License-Identifier: Apache-2.0
"""Running tokens through a model, over the engine's own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from timebill_ros.engine.attention import HiddenStates, ObservationWindow, grouped_attention
from timebill_ros.engine.checkpoint import Checkpoint
from timebill_ros.engine.errors import UnsupportedModel
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.module_decoder import ModuleDecoder
from timebill_ros.engine.projection import (
    FullProjection,
    MakeProjection,
    Projection,
    WeightKinds,
    check_kinds,
)

_FAMILY = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
_ROPE = frozenset({"default", "dynamic", "linear", "llama3", "longrope", "yarn"})
"""Rotary embeddings that are one table up to ``checkpoint.max_positions``."""


class Decoder(Protocol):
    """Runs tokens at the cache's position, appends their keys and values, returns logits.

    Attributes:
        hidden: records what layers make of the latest token; None where nobody reads it.
    """

    hidden: HiddenStates | None

    def prefill(self, tokens: Tensor, observation: ObservationWindow | None) -> Tensor:
        """Run n prompt tokens [n]; logits [V] of the last.

        ``observation`` sees what the last of them attend to, if given.
        """

    def step(self, token: int) -> Tensor:
        """Run one response token; logits [V]."""

    def follow(self, tokens: Tensor) -> Tensor:
        """Run n given tokens [n] at once; logits [n, V] of each."""

    def step_together(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Run one token [n] of each of n sequences, which have a cache each; logits [n, V]."""


class LeanDecoder:
    """The decoder family that most models share, over plain tensors: where ``supports`` is true.

    RMSNorm, grouped-query attention with rotary positions, SwiGLU: Llama, Mistral, Qwen2, Qwen3,
    Phi-3. Decoding is the hot loop, and for small models the modules' overhead (wrappers, keyword
    arguments, a cache that grows by concatenation) costs more than their arithmetic. Prefill and
    step are the same mathematics; the step is written for one token, since there every kernel
    launch and every view shows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: KVCache,
        make: MakeProjection = FullProjection,
        make_head: MakeProjection | None = None,
    ) -> None:
        """``make`` decides how weights are kept, ``make_head`` of the head, if not the same."""
        config, decoder = model.config, model.model
        self.hidden: HiddenStates | None = None
        self._cache = cache
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = decoder.layers[0].self_attn.head_dim
        self._scale: float = decoder.layers[0].self_attn.scaling
        self._eps: float = config.rms_norm_eps
        self._embedding = decoder.embed_tokens.weight.detach()
        self._norm = decoder.norm.weight.detach()
        self._head = (make_head or make)(model.lm_head.weight.detach(), None)
        self._layers = [layer_weights(x, self._heads, self._kv_heads, make) for x in decoder.layers]
        self._cos, self._sin = rotary_tables(model, cache.capacity)
        self._rotary_dim = self._cos.shape[-1]

    def prefill(self, tokens: Tensor, observation: ObservationWindow | None) -> Tensor:
        """See ``Decoder.prefill``."""
        x = self._chunk(tokens, observation)
        return self._head(self._normed(_rms_norm(x[-1], self._norm, self._eps)))

    def follow(self, tokens: Tensor) -> Tensor:
        """See ``Decoder.follow``."""
        x = self._chunk(tokens, None)
        return self._head(F.rms_norm(x, self._norm.shape, self._norm, self._eps))

    def _chunk(self, tokens: Tensor, observation: ObservationWindow | None) -> Tensor:
        """Run n tokens [n] at the cache's position; what the layers make of them, [n, h]."""
        cache, count = self._cache, len(tokens)

        def attend(layer: int, query: Tensor, new: Tensor) -> Tensor:
            key, value = cache.append(layer, new.permute(1, 2, 0, 3)).split(1)
            query = query.transpose(0, 1)  # [H, n, D]
            if observation is None:
                out = grouped_attention(query[None], key, value, self._scale)
            else:
                out = observation.attend(layer, query[None], key, value, self._scale)
            return out[0].transpose(0, 1).reshape(count, -1)

        positions = slice(cache.position, cache.position + count)
        x = self._run(tokens, self._cos[positions, None], self._sin[positions, None], attend, -1)
        cache.advance(count)
        return x

    def step(self, token: int) -> Tensor:
        """See ``Decoder.step``."""
        cache, heads, kv_heads, head_dim = self._cache, self._heads, self._kv_heads, self._head_dim
        x = self._embedding[token].clone()  # [h]
        cos, sin = self._cos[cache.position], self._sin[cache.position]
        for index, layer in enumerate(self._layers):
            y = _rms_norm(x, layer.input_norm, self._eps)
            qkv = layer.qkv(y).view(-1, head_dim)
            self._rotate(qkv[: heads + kv_heads], cos, sin, layer.qk_norm)
            cached = cache.append(index, qkv[heads:].view(2, kv_heads, 1, head_dim))
            query = qkv[:heads].view(1, heads, 1, head_dim)
            out = grouped_attention(query, cached[:1], cached[1:], self._scale)
            layer.out.add_to(x, out.view(-1))
            y = _rms_norm(x, layer.mlp_norm, self._eps)
            gate, up = layer.gate_up(y).chunk(2)
            layer.down.add_to(x, F.silu(gate).mul_(up))
            if self.hidden is not None:
                self.hidden.record(index, x)
        cache.advance(1)
        return self._head(self._normed(_rms_norm(x, self._norm, self._eps)))

    def step_together(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """One token [n] of each of n sequences, which have a cache each; logits [n, V].

        For answering many prompts where nobody waits for one: a step reads all weights, and n
        tokens share that. Weights are used as they are kept for prefill. The sums run in another
        order than in ``step``, so a token may differ where two are about as likely.
        """

        def attend(layer: int, query: Tensor, new: Tensor) -> Tensor:
            new, query = new.unsqueeze(3), query.unsqueeze(2)  # [n, 2, KV, 1, D], [n, H, 1, D]
            rows = []
            for row, cache in enumerate(caches):
                key, value = cache.append(layer, new[row]).split(1)
                rows.append(grouped_attention(query[row, None], key, value, self._scale))
            return torch.cat(rows).flatten(1)

        positions = torch.tensor([cache.position for cache in caches], device=tokens.device)
        x = self._run(tokens, self._cos[positions, None], self._sin[positions, None], attend, 0)
        for cache in caches:
            cache.advance(1)
        return self._head(self._normed(F.rms_norm(x, self._norm.shape, self._norm, self._eps)))

    def _run(
        self,
        tokens: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Callable[[int, Tensor, Tensor], Tensor],
        first_recorded: int,
    ) -> Tensor:
        """What the layers make of tokens [n], [n, h].

        Args:
            tokens: of one sequence or of n.
            cos: of their positions, [n, 1, R].
            sin: likewise.
            attend: given the layer, the queries [n, H, D], and the new keys and values
                [n, 2, KV, D], appends these and returns what is attended to, [n, H D].
            first_recorded: the first token whose hidden states are recorded, if they are.
        """
        heads, count = self._heads, len(tokens)
        x = F.embedding(tokens, self._embedding)  # [n, h]
        for index, layer in enumerate(self._layers):
            y = F.rms_norm(x, layer.input_norm.shape, layer.input_norm, self._eps)
            qkv = layer.qkv(y).view(count, -1, self._head_dim)
            self._rotate(qkv[:, : heads + self._kv_heads], cos, sin, layer.qk_norm)
            new = qkv[:, heads:].view(count, 2, self._kv_heads, self._head_dim)
            x += layer.out(attend(index, qkv[:, :heads], new))
            y = F.rms_norm(x, layer.mlp_norm.shape, layer.mlp_norm, self._eps)
            gate, up = layer.gate_up(y).chunk(2, dim=-1)
            x += layer.down(F.silu(gate).mul_(up))
            if self.hidden is not None:
                self.hidden.record(index, x[first_recorded:])
        return x

    def _normed(self, x: Tensor) -> Tensor:
        """Record and return the last layer's state, after the final norm."""
        if self.hidden is not None:
            self.hidden.record(len(self._layers) - 1, x)
        return x

    def _rotate(self, qk: Tensor, cos: Tensor, sin: Tensor, norm: Tensor | None) -> None:
        """Normalise (Qwen3) and rotate queries and keys [..., H + KV, D] in place."""
        if norm is not None:
            qk.copy_(F.rms_norm(qk, qk.shape[-1:], None, self._eps).mul_(norm))
        # Phi-3 may rotate only a part of each head.
        rotary = qk if self._rotary_dim == self._head_dim else qk[..., : self._rotary_dim]
        rolled = rotary.roll(self._rotary_dim // 2, dims=-1)
        rotary.mul_(cos).addcmul_(rolled, sin)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of one vector [h]."""
    if x.dtype == torch.float32 and x.device.type == "cpu":
        # torch 2.13 composes rms_norm of six kernels on CPU; this takes half its time.
        return (x * weight).mul_((x.dot(x).item() / x.numel() + eps) ** -0.5)
    return F.rms_norm(x, weight.shape, weight, eps)


def make_decoder(
    checkpoint: Checkpoint,
    cache: KVCache,
    observation: ObservationWindow,
    *,
    lean: bool,
    weights: WeightKinds,
) -> Decoder:
    """The lean decoder if it is wanted and supports the model, else the modules.

    Raises:
        SettingError: the weights cannot be kept so.
        UnsupportedModel: the modules do not run over the cache, found by running one token.
    """
    model = checkpoint.model
    lean = lean and supports(model)
    check_kinds(weights, dtype=checkpoint.dtype, device=checkpoint.device.type, lean=lean)
    if lean:
        return LeanDecoder(model, cache, weights.maker(), weights.head_maker())
    decoder = ModuleDecoder(model, cache)
    try:
        decoder.prefill(torch.zeros(1, dtype=torch.long, device=model.device), observation)
    except (RuntimeError, TypeError) as error:
        fault = str(error).splitlines()[0]
        reason = f"{type(model).__name__} does not run over the engine's cache: {fault}"
        raise UnsupportedModel(checkpoint.folder, reason) from error
    if not observation.complete:
        reason = (
            f"some layers of {type(model).__name__} do not attend through transformers' attention "
            "interface"
        )
        raise UnsupportedModel(checkpoint.folder, reason)
    cache.reset()
    observation.reset()
    return decoder


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer's weights; projections that read the same input are stacked."""

    input_norm: Tensor  # [h]
    qkv: Projection  # h -> (H + 2 KV) D
    qk_norm: Tensor | None  # [H + KV, D], Qwen3
    out: Projection  # H D -> h
    mlp_norm: Tensor  # [h]
    gate_up: Projection  # h -> 2 f
    down: Projection  # f -> h


def supports(model: PreTrainedModel) -> bool:
    """Whether the model computes exactly what ``LeanDecoder`` does."""
    config = model.config
    return (
        config.model_type in _FAMILY
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in _ROPE
        and all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))
    )


def layer_weights(
    layer: Any, heads: int, kv_heads: int, make: MakeProjection = FullProjection
) -> LayerWeights:
    """Collect one layer's weights, stacking what the model keeps apart.

    A stack becomes the storage of the module's own parameters: it costs no memory, and the module's
    forward goes on working.
    """
    attention, mlp = layer.self_attn, layer.mlp
    if hasattr(attention, "qkv_proj"):  # Phi-3 has them stacked
        qkv, gate_up = _stack(attention.qkv_proj), _stack(mlp.gate_up_proj)
    else:
        qkv = _stack(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up = _stack(mlp.gate_proj, mlp.up_proj)
    qk_norm = None
    if hasattr(attention, "q_norm"):
        norms = (attention.q_norm.weight, heads), (attention.k_norm.weight, kv_heads)
        qk_norm = torch.cat([weight.detach().expand(count, -1) for weight, count in norms])
    return LayerWeights(
        layer.input_layernorm.weight.detach(),
        make(*qkv),
        qk_norm,
        make(*_stack(attention.o_proj)),
        layer.post_attention_layernorm.weight.detach(),
        make(*gate_up),
        make(*_stack(mlp.down_proj)),
    )


def rotary_tables(model: Any, positions: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine rows [positions, R] of the model's own rotary embedding.

    The minus sign of transformers' ``rotate_half`` is moved into the sine's first half, so that
    rotated x = x cos + roll(x, R / 2) sin.
    """
    index = torch.arange(positions, device=model.device)
    cos, sin = model.model.rotary_emb(model.model.embed_tokens.weight, position_ids=index[None])
    cos, sin = cos[0].contiguous(), sin[0].clone()
    sin[:, : sin.shape[-1] // 2].neg_()
    return cos, sin


def _stack(*projections: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of several projections of one input as if they were one."""
    bias = None if projections[0].bias is None else _share([p.bias for p in projections])
    return _share([p.weight for p in projections]), bias


def _share(parameters: Sequence[Tensor]) -> Tensor:
    """Stack parameters along rows and make the stack their storage."""
    if len(parameters) == 1:
        return parameters[0].detach()
    stacked = torch.cat([parameter.detach() for parameter in parameters])
    rows = [len(parameter) for parameter in parameters]
    for parameter, part in zip(parameters, stacked.split(rows), strict=True):
        parameter.data = part
    return stacked

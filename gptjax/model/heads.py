"""What stands on the last layer: logits of tokens, classes of rows, rewards, values."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gptjax import sharding as sharding_lib
from gptjax.model import config, layers

OVER_TOKENS = ('tokens', 'masked', 'pretraining')
OVER_CLASSES = ('classes', 'pretraining')


class Head(nn.Module):
    """The head of `arch.head`; only the methods of its kind may be called."""

    arch: config.Architecture
    sharding: sharding_lib.Sharding
    train: bool = False

    def setup(self) -> None:
        arch, head = self.arch, self.arch.head
        normal, zeros = layers.normal(arch), nn.initializers.zeros
        hidden, output = layers.hidden(arch), layers.output(arch)
        D, V = arch.D, arch.V
        self.dropout = nn.Dropout(arch.dropout, deterministic=not self.train)
        over_tokens = head.kind in OVER_TOKENS
        if over_tokens and not head.tied:
            axes = ('vocab', 'embed')
            self.unembed_VD = layers.weight(self, 'unembed', (V, D), axes, normal)
        if over_tokens and head.bias:
            self.bias_V = layers.weight(self, 'bias', (V,), ('vocab',), zeros)
        if head.kind in ('masked', 'pretraining'):
            self.transform_DD = layers.weight(
                self, 'transform', (D, D), ('embed', 'mlp'), hidden
            )
            self.transform_bias_D = layers.weight(
                self, 'transform_bias', (D,), ('mlp',), zeros
            )
            self.transform_norm = layers.Norm(arch)
        if head.pooler:
            self.pooler_DD = layers.weight(
                self, 'pooler', (D, D), ('embed', 'mlp'), hidden
            )
            self.pooler_bias_D = layers.weight(
                self, 'pooler_bias', (D,), ('mlp',), zeros
            )
        if head.kind in OVER_CLASSES:
            C = head.classes if head.kind == 'classes' else 2
            axes = ('embed', 'classes')
            self.classes_DC = layers.weight(self, 'classes', (D, C), axes, output)
            if head.pooler:
                self.classes_bias_C = layers.weight(
                    self, 'classes_bias', (C,), ('classes',), zeros
                )
        if _has_number(head):
            name = 'reward' if head.kind == 'reward' else 'value'
            self.number_D1 = layers.weight(
                self, name, (D, 1), ('embed', 'classes'), output
            )

    def everything(
        self,
        x_BTD: Float[Array, 'B T D'],
        segments_BT: Int[Array, 'B T'],
        tokens_VD: Any,
    ) -> None:
        """Calls what this head has, so that its weights come into being."""
        kind = self.arch.head.kind
        if kind in OVER_TOKENS:
            self.logits(x_BTD, tokens_VD)
        if kind in OVER_CLASSES:
            self.classify(x_BTD, segments_BT)
        if self.arch.head.pooler:
            self.pooled(x_BTD, segments_BT)
        if _has_number(self.arch.head):
            self.values(x_BTD)

    def logits(
        self, x_BTD: Float[Array, 'B T D'], tokens_VD: Any
    ) -> Float[Array, 'B T V']:
        """Logits of tokens, in float32; `tokens_VD` is the weight of the embedding."""
        return self._capped(self._scores(x_BTD, tokens_VD, 0))

    def scores(
        self, x_BTD: Float[Array, 'B T D'], tokens_VD: Any
    ) -> Float[Array, 'B T W']:
        """`logits` in the type of `x_BTD`, perhaps padded: see `_padding`."""
        scores_BTW = self._scores(x_BTD, tokens_VD, self._padding())
        return self._capped(scores_BTW).astype(x_BTD.dtype)

    def _padding(self) -> int:
        """Rows that make the vocabulary a multiple of 128, which products like best.

        A small one would not be worth it, and one that is split over devices stays.
        """
        V = self.arch.V
        return 0 if V < 1024 or self.sharding.parts('vocab') > 1 else -V % 128

    def _scores(
        self, x_BTD: Float[Array, 'B T D'], tokens_VD: Any, padding: int
    ) -> Float[Array, 'B T W']:
        head = self.arch.head
        if head.kind in ('masked', 'pretraining'):
            x_BTD = layers.einsum('BTD,DF->BTF', x_BTD, self.transform_DD)
            x_BTD = layers.biased(x_BTD, self.transform_bias_D)
            x_BTD = layers.activate(self.arch.activation, x_BTD)
            x_BTD = self.transform_norm(x_BTD)
        unembed_VD = tokens_VD if head.tied else self.unembed_VD
        if isinstance(unembed_VD, jax.Array) and padding:  # not with an adapter
            unembed_VD = jnp.pad(unembed_VD, ((0, padding), (0, 0)))
        if self.arch.base_D:  # muP: the rows of the embedding do not shrink
            x_BTD *= self.arch.shrink
        scores_BTW = layers.einsum('BTD,VD->BTV', x_BTD, unembed_VD)
        return self.sharding.constrain(scores_BTW, 'batch', 'length', 'vocab')

    def _capped(self, scores_BTW: Float[Array, 'B T W']) -> Float[Array, 'B T W']:
        """Scores with the bias and the cap, in float32."""
        head, scores_BTW = self.arch.head, scores_BTW.astype(jnp.float32)
        if head.bias:
            padding = scores_BTW.shape[-1] - self.arch.V
            scores_BTW += jnp.pad(self.bias_V, (0, padding))
        if head.soft_cap:  # Gemma Team (2024), section 2
            scores_BTW = head.soft_cap * jnp.tanh(scores_BTW / head.soft_cap)
        return scores_BTW

    def pooled(
        self, x_BTD: Float[Array, 'B T D'], segments_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B D']:
        """One vector a row, which is one document, perhaps padded on either side.

        That of its last token, which has seen all others, in a causal model, of the
        first ([CLS]) in an encoder; with a pooler, through its layer and tanh.
        """
        real_BT = segments_BT > 0
        at_B = jnp.argmax(real_BT, axis=1)
        if self.arch.causal:
            at_B = real_BT.shape[1] - 1 - jnp.argmax(real_BT[:, ::-1], axis=1)
        x_BD = jnp.take_along_axis(x_BTD, at_B[:, None, None], axis=1)[:, 0]
        if not self.arch.head.pooler:
            return x_BD
        x_BD = layers.einsum('BD,DF->BF', x_BD, self.pooler_DD)
        return jnp.tanh(x_BD + self.pooler_bias_D.astype(x_BD.dtype))

    def classify(
        self, x_BTD: Float[Array, 'B T D'], segments_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B C']:
        """Logits of classes, in float32."""
        x_BD = self.pooled(x_BTD, segments_BT)
        logits_BC = layers.einsum('BD,DC->BC', self.dropout(x_BD), self.classes_DC)
        logits_BC = logits_BC.astype(jnp.float32)
        return logits_BC + self.classes_bias_C if self.arch.head.pooler else logits_BC

    def values(self, x_BTD: Float[Array, 'B T D']) -> Float[Array, 'B T']:
        """One number for each token, in float32."""
        values_BT1 = layers.einsum('BTD,DC->BTC', x_BTD, self.number_D1)
        return values_BT1[..., 0].astype(jnp.float32)

    def rewards(
        self, x_BTD: Float[Array, 'B T D'], segments_BT: Int[Array, 'B T']
    ) -> Float[Array, 'B']:
        """One number for each row, in float32: the value at its pooled token."""
        x_BD = self.pooled(x_BTD, segments_BT)
        return self.values(x_BD[:, None])[:, 0]


def _has_number(head: config.Head) -> bool:
    return head.values or head.kind in ('reward', 'value')

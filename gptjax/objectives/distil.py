"""Distillation: a student learns the distributions of a teacher over the next token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax import command, core
from gptjax.model import transformer
from gptjax.objectives import heads, next_token

_RANGES: dict[str, command.Range] = {
    'beta': ('in [0, 1]: 0 is the forward KL, 1 the reverse', lambda x: 0 <= x <= 1),
    'temperature': command.ABOVE_0,
}


def make(
    model: transformer.Model,
    *,
    teacher: transformer.Model,
    beta: float,
    temperature: float,
) -> core.LossFn:
    """`divergence` from frozen['teacher'], per token with weight.

    On rows of a dataset this is off policy, on the student's own answers on policy
    (Agarwal et al., 2024, algorithm 1). The temperature divides both logits, and the
    loss is not scaled back by its square. Metrics: `cross_entropy` of the targets, and
    `agreement`, the share of tokens whose most probable one is the teacher's. Raises
    UserError for a vocabulary that is not the teacher's, and for a model without a
    causal head over tokens.
    """
    for one in (model, teacher):
        heads.require(one, 'distil', 'tokens', 'masked', causal=True)
    if model.arch.V != teacher.arch.V:
        raise command.UserError(
            f'model.V is {model.arch.V}, and the teacher has {teacher.arch.V} tokens; '
            'logits are distilled between models of one tokenizer, so take another '
            'teacher.'
        )
    options = {'beta': beta, 'temperature': temperature}
    command.check_ranges('objective', options, _RANGES)

    def loss_fn(
        params: core.Params, frozen: core.Params, batch: core.Batch, key: Array | None
    ) -> core.Loss:
        x_BTD, router = transformer.hidden(model, params, batch, key)
        logits_BTV = transformer.logits(model, params, x_BTD)
        target_BTV = transformer.forward(teacher, frozen['teacher'], batch)
        apart_BT = divergence(logits_BTV, target_BTV, beta, temperature)
        told = {
            'cross_entropy': -next_token.log_likelihood(logits_BTV, batch['targets']),
            'agreement': jnp.argmax(logits_BTV, -1) == jnp.argmax(target_BTV, -1),
        }
        weights_BT = batch['weights']
        weight = jnp.sum(weights_BT)
        return core.Loss(
            terms={'loss': (jnp.sum(apart_BT * weights_BT), weight), **router},
            metrics={
                name: (jnp.sum(x_BT * weights_BT), weight)
                for name, x_BT in told.items()
            },
        )

    return loss_fn


def divergence(
    student_BTV: Float[Array, 'B T V'],
    teacher_BTV: Float[Array, 'B T V'],
    beta: float,
    temperature: float,
) -> Float[Array, 'B T']:
    """The generalised Jensen-Shannon divergence in nats (Agarwal et al., 2024, eq. 1).

    beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 -
    beta) student. At beta 0 it is KL(teacher || student), at 1 KL(student || teacher):
    the limits divided by beta and by 1 - beta.
    """
    q_BTV = jax.nn.log_softmax(student_BTV / temperature)
    p_BTV = jax.nn.log_softmax(teacher_BTV / temperature)
    if beta == 0:
        return _kl(p_BTV, q_BTV)
    if beta == 1:
        return _kl(q_BTV, p_BTV)
    m_BTV = jnp.logaddexp(q_BTV + jnp.log1p(-beta), p_BTV + jnp.log(beta))
    return beta * _kl(p_BTV, m_BTV) + (1 - beta) * _kl(q_BTV, m_BTV)


def _kl(p_BTV: Array, q_BTV: Array) -> Array:
    return jnp.sum(jnp.exp(p_BTV) * (p_BTV - q_BTV), axis=-1)

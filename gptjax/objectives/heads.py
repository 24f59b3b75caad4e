"""Whether a model can be trained on an objective."""

from gptjax import command
from gptjax.model import transformer


def require(
    model: transformer.Model,
    objective: str,
    *kinds: str,
    causal: bool | None = None,
    encoder: bool | None = False,
) -> None:
    """Raises UserError where the head or the attention is not what an objective needs.

    kinds: of `model.head.kind`. causal: whether tokens see only the past. encoder:
    whether an encoder stands beside the decoder. None is either.
    """
    arch = model.arch
    if arch.head.kind not in kinds:
        raise command.UserError(
            f'model.head.kind is {arch.head.kind!r}, and objective {objective!r} '
            f'trains a head of kind {" or ".join(map(repr, kinds))}; set '
            f'model.head.kind={kinds[0]!r}, or another objective.name.'
        )
    if encoder is not None and bool(arch.encoder_L) != encoder:
        needed = '1 or more' if encoder else '0'
        raise command.UserError(
            f'model.encoder_L is {arch.encoder_L}, and objective {objective!r} needs '
            f'{needed}; take a model of another family, or another objective.name.'
        )
    if causal is not None and arch.causal != causal:
        raise command.UserError(
            f'model.causal is {arch.causal}, and objective {objective!r} needs '
            f'{causal}; set model.causal={causal}, or another objective.name.'
        )

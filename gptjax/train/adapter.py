"""The section `adapter`: what is trained in place of the weights, over which base."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax

from gptjax import command, core, trees
from gptjax import sharding as sharding_lib
from gptjax.model import lora, quantise
from gptjax.train import freeze


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Low-rank adapters (Hu et al., 2022), over a base that may be in few bits (QLoRA).

    They count alpha / R, or alpha / sqrt(R) `rank_stabilised` (Kalajdzievski, 2023).
    """

    R: int  # the rank
    alpha: float
    rank_stabilised: bool
    targets: Sequence[str]  # patterns of what is adapted, as of optimizer.freeze
    train: Sequence[str]  # of weights that are trained whole, a new head for example
    base: str  # how the other weights are held: 'float32', or one of quantise.KINDS

    def __post_init__(self) -> None:
        if self.R < 1 or not 0 < self.alpha < float('inf'):
            raise command.UserError(
                f'adapter.R is {self.R} and adapter.alpha {self.alpha}; R needs to be '
                '1 or more, and alpha above 0.'
            )
        kinds = dict.fromkeys(('float32', *quantise.KINDS))
        command.lookup(kinds, self.base, 'kind of weights for adapter.base')

    @property
    def scale(self) -> float:
        return self.alpha / (self.R**0.5 if self.rank_stabilised else self.R)

    def _paths(self, boxed: core.Params) -> tuple[list[str], list[str]]:
        """The weights that are adapted, and those that are trained whole."""
        if not (self.targets or self.train):
            raise command.UserError(
                'adapter.targets and adapter.train are empty, which leaves nothing to '
                "train; adapt ('blocks/attention', 'blocks/mlp') for example."
            )
        leaves = dict(trees.paths(nn.unbox(boxed)))
        named = {
            name: freeze.matches(f'adapter.{name}', patterns, leaves)
            for name, patterns in (('targets', self.targets), ('train', self.train))
        }
        if any('[' in p for patterns in named.values() for p in patterns):
            raise command.UserError(
                f'adapter.targets is {list(self.targets)} and adapter.train is '
                f'{list(self.train)}; they take all layers of a stack, so leave the '
                'brackets out: optimizer.freeze can pick layers of adapters.'
            )
        for pattern, found in named['targets'].items():
            if not any(map(lora.adaptable, found)):
                raise command.UserError(
                    f'adapter.targets has {pattern!r}, and {", ".join([*found][:4])} '
                    'cannot be adapted (embeddings, experts, biases and norms are no '
                    'weights of products); name it in adapter.train.'
                )
        targets, whole = (
            {path for found in matched.values() for path in found}
            for matched in named.values()
        )
        return sorted(filter(lora.adaptable, targets - whole)), sorted(whole)

    def trained(self, boxed: core.Params) -> core.Params:
        """Boxed shapes of what is trained, given those of the whole model."""
        made = jax.eval_shape(lambda: self._factors(boxed, jax.random.key(0)))
        _, whole = self._paths(boxed)
        leaves = dict(trees.paths(boxed, is_leaf=lora.is_boxed))
        return _laid(made, {path: leaves[path] for path in whole}, lora.is_boxed)

    def start(
        self,
        boxed: core.Params,
        sharding: sharding_lib.Sharding,
        seed: int,
        params: Callable[[], core.Params],
    ) -> core.Params:
        """What is trained, at step 0: adapters that change nothing yet."""

        def make(key: jax.Array) -> core.Params:
            return nn.unbox(self._factors(boxed, key))

        shapes = jax.eval_shape(lambda: self._factors(boxed, jax.random.key(0)))
        places = sharding.of_boxed(shapes)
        made = jax.jit(make, out_shardings=places)(jax.random.key(seed))
        _, whole = self._paths(boxed)
        weights = dict(trees.paths(params())) if whole else {}
        return _laid(made, {path: weights[path] for path in whole})

    def held(self, boxed: core.Params) -> core.Params:
        """Boxed shapes of the base."""
        if self.base == 'float32':
            return boxed
        return quantise.abstract(boxed, self.base, whole=self._paths(boxed)[1])

    def over(
        self, boxed: core.Params, sharding: sharding_lib.Sharding, params: core.Params
    ) -> core.Params:
        """The base as it is held, of `params`, which are whole and in float32."""
        if self.base == 'float32':
            return params
        return quantise.tree(params, self.held(boxed), sharding)

    def loss(self, loss_fn: core.LossFn) -> core.LossFn:
        """The loss of adapters over frozen['base'], from that of whole parameters."""

        def over_base(
            params: core.Params,
            frozen: Mapping[str, Any],
            batch: core.Batch,
            key: jax.Array | None,
        ) -> core.Loss:
            return loss_fn(self.joined(params, frozen), frozen, batch, key)

        return over_base

    def joined(self, params: core.Params, frozen: Mapping[str, Any]) -> core.Params:
        """The parameters that a model takes."""
        return lora.join(frozen['base'], params, self.scale)

    def _factors(self, boxed: core.Params, key: jax.Array) -> core.Params:
        return lora.init(boxed, self._paths(boxed)[0], self.R, key)


def of(settings: Mapping[str, Any]) -> Adapter | None:
    """The adapter of a run, if it has one; UserError without weights to adapt."""
    if 'adapter' not in settings:
        return None
    if 'init_from' not in settings['model']:
        raise command.UserError(
            'adapter is set and model.init_from is not: adapters are trained over the '
            'weights of a workdir; name it there.'
        )
    made: Adapter = command.splat(Adapter, 'adapter', settings['adapter'])
    return made


def _laid(
    adapters: core.Params, whole: Mapping[str, Any], is_leaf: Any = None
) -> core.Params:
    """Adapters with the weights that are trained whole beside them."""
    flat = dict(trees.paths(adapters, is_leaf=is_leaf))
    return traverse_util.unflatten_dict({**flat, **whole}, sep='/')

"""Where a run's weights come from: a random key, or the checkpoint of a workdir.

What starts from a workdir may take another head, a larger vocabulary or a causal mask
over the same trunk: a classifier from BERT, a GPT from RoBERTa (Rothe et al., 2020).
"""

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path
import sys
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from gptjax import command, core, trees
from gptjax import sharding as sharding_lib
from gptjax.data import storage
from gptjax.model import config as model_config
from gptjax.model import lora, transformer
from gptjax.train import adapter as adapter_lib
from gptjax.train import checkpoint, freeze
from gptjax.train import settings as settings_lib

_OVER_VOCABULARY = ('tokens', 'head/unembed', 'head/bias')
# What one kind of head puts out means nothing to another kind.
_OUTPUTS = ('head/classes', 'head/classes_bias', 'head/reward', 'head/value')


@dataclasses.dataclass(frozen=True)
class Start:
    """The architecture of a run, and its parameters at step 0."""

    arch: model_config.Architecture
    params: Callable[[], core.Params]
    digest: str  # of the weights of the workdir that it starts from, or ''
    step: int = 0  # of the checkpoint of that workdir
    new_head: bool = False  # whether a part of it is drawn, for lack of one


def fresh(
    section: Mapping[str, Any],
    seed: int,
    sharding: sharding_lib.Sharding,
    compute: model_config.Compute,
    values: bool = False,
) -> Start:
    """Random weights of the architecture that `section` describes."""
    arch = model_config.architecture('model', **section)
    arch = arch.with_head(values=values or arch.head.values)
    model = transformer.make(arch, compute, sharding)
    return Start(arch, lambda: transformer.init(model, jax.random.key(seed)), '')


def from_workdir(
    init_from: str,
    dropout: float,
    V: int | None = None,
    head: Any = None,
    causal: bool | None = None,
    *,
    seed: int,
    sharding: sharding_lib.Sharding,
    compute: model_config.Compute,
    values: bool = False,
    **trunk: Any,
) -> Start:
    """The weights of a workdir's checkpoint, under another head if `head` is given.

    V: a larger vocabulary, whose new rows are the mean of the old ones (Hewitt, 2021).
    head: the settings of a whole Head: what the checkpoint lacks of it is drawn from
    `seed`, and what only the old head had is left. causal: whether tokens see only the
    past. values: whether the objective needs a value for each token. Raises UserError
    for a smaller V, and for what would change the trunk's shape.
    """
    if trunk:
        raise command.UserError(
            f'model has {", ".join(sorted(trunk))} beside init_from, whose checkpoint '
            'says what the model is; only dropout, V, head and causal may be given too.'
        )
    manifest, old = saved(Path(init_from))
    if V is not None and V < old.V:
        raise command.UserError(
            f'model.V is {V}, and {init_from} has {old.V} tokens; set it to at least '
            'that, or leave it out.'
        )
    arch = dataclasses.replace(
        old,
        dropout=dropout,
        V=old.V if V is None else V,
        causal=old.causal if causal is None else causal,
        head=dataclasses.replace(old.head, values=False)
        if head is None
        else command.splat(model_config.Head, 'model.head', head),
    )
    arch = arch.with_head(values=values or arch.head.values)

    def params() -> core.Params:
        made = transformer.make(old, compute, sharding)
        before = merged(restore(Path(init_from), manifest, made), made)
        if (arch.V, arch.head) == (old.V, old.head):
            return before
        model = transformer.make(arch, compute, sharding)
        same_kind = arch.head.kind == old.head.kind
        return _refit(before, model, same_kind, seed, init_from)

    new_head = arch.head.kind not in (old.head.kind, 'tokens')
    new_head |= arch.head.values and not old.head.values
    return Start(arch, params, _digest(manifest), manifest['step'], new_head)


def outputs(boxed: core.Params) -> set[str]:
    """The paths of what a head puts out, or of the whole head without such weights."""
    paths = [path for path, _ in trees.paths(nn.unbox(boxed))]
    head = {path for path in paths if path.startswith('head/')}
    return head & set(_OUTPUTS) or head


def digest(workdir: Path) -> str:
    """Of the weights in the checkpoint to use of a workdir."""
    return _digest(saved(workdir)[0])


def _digest(manifest: Mapping[str, Any]) -> str:
    arrays = {k: v for k, v in manifest['arrays'].items() if k.startswith('params/')}
    return storage.json_digest(arrays)


def adapters(
    workdir: Path, base: Path, model: transformer.Model
) -> tuple[core.Params, float]:
    """The adapters of a workdir alone, and their scale, for the weights in `base`.

    model: that of `base`. A head of values, which only training needs, is left out.
    Raises UserError where they are for other weights, or there are none.
    """
    manifest, arch = saved(workdir)
    adapter = adapter_lib.of(settings_lib.stored(workdir))
    made_for, held = manifest['host'].get('base_digest', ''), digest(base)
    plain = model.arch.with_head(values=False)
    same = arch.with_head(values=False).head == plain.head and arch.V == plain.V
    if adapter is None or made_for != held or not same:
        what = f'for {made_for:.12}' if made_for else 'whole weights'
        raise command.UserError(
            f'{workdir} holds no adapters for the weights of {base} ({held:.12}), but '
            f'{what}; take the base that it was trained over, with its vocabulary and '
            'head.'
        )
    own = transformer.make(arch, model.compute, model.sharding)
    boxed = adapter.trained(transformer.abstract(own))
    flat = dict(trees.paths(_restore(workdir, manifest, boxed, model.sharding)))
    flat.pop('head/value', None)
    return traverse_util.unflatten_dict(flat, sep='/'), adapter.scale


def saved(workdir: Path) -> tuple[dict[str, Any], model_config.Architecture]:
    """The manifest of the checkpoint to use, and the architecture it holds."""
    if not workdir.is_dir():
        raise command.UserError(
            f'no workdir {str(workdir)!r}; train one with '
            f'python -m gptjax.train --config=... --workdir={workdir}'
        )
    checkpoints = checkpoint.Checkpoints(workdir, keep=1)
    manifest = checkpoints.newest()
    if manifest is None:
        raise command.UserError(f'{workdir} has no checkpoint yet; train it first.')
    host: dict[str, Any] = {'best_is_kept': False, **manifest['host']}
    best, is_kept = host['best_step'], host['stopped_early'] or host['best_is_kept']
    if is_kept and best not in (None, manifest['step']):
        manifest = checkpoints.whole(best) or manifest
    checkpoints.close()
    fields = manifest['host']['architecture']
    return manifest, model_config.architecture('architecture', **fields)


def restore(
    workdir: Path, manifest: Mapping[str, Any], model: transformer.Model
) -> core.Params:
    """The parameters of a checkpoint, on the mesh of `model`.

    Of a run with optimizer.ema they are the averages, not what was trained last.
    Adapters are joined with their base, which the workdir's config.json names (adapter,
    model and seed); UserError where that one is not there, or has changed.
    """
    boxed = transformer.abstract(model)
    digest = manifest['host'].get('base_digest', '')
    if not digest:
        return _restore(workdir, manifest, boxed, model.sharding)
    settings = settings_lib.stored(workdir)
    adapter, section = adapter_lib.of(settings), settings['model']
    if adapter is None or not Path(section['init_from']).is_dir():
        raise command.UserError(
            f'{workdir} holds adapters for the weights in {section["init_from"]!r}, '
            'and there is no such workdir; put it there.'
        )
    begin: Start = command.splat(
        from_workdir,
        'model',
        section,
        seed=settings['seed'],
        sharding=model.sharding,
        compute=model.compute,
        values=model.arch.head.values,
    )
    if begin.digest != digest:
        raise command.UserError(
            f'{workdir} holds adapters for other weights than those that are in '
            f'{section["init_from"]} now; put back the checkpoint that it began with.'
        )
    trained = _restore(workdir, manifest, adapter.trained(boxed), model.sharding)
    base = adapter.over(boxed, model.sharding, begin.params())
    return lora.join(base, trained, adapter.scale)


def _restore(
    workdir: Path,
    manifest: Mapping[str, Any],
    boxed: core.Params,
    sharding: sharding_lib.Sharding,
) -> core.Params:
    """What is in a checkpoint itself: averages of weights where it has them."""
    shapes, places = nn.unbox(boxed), sharding.of_boxed(boxed)
    checkpoints = checkpoint.Checkpoints(workdir, keep=1)
    params = checkpoints.restore_params(manifest, shapes, places)
    if checkpoint.has_ema(manifest):
        patterns = settings_lib.stored(workdir)['optimizer']['freeze']
        trained = freeze.select(shapes, patterns)
        part = jax.eval_shape(trained.take, shapes)
        ema = checkpoints.restore_ema(manifest, part, trained.prune(places))
        params = trained.put(params, ema)
    checkpoints.close()
    return params


def merged(params: core.Params, model: transformer.Model) -> core.Params:
    """Whole float32 parameters, whatever leaves `params` have."""
    places = model.sharding.of_boxed(transformer.abstract(model))
    if len(jax.tree.leaves(params)) == len(jax.tree.leaves(places)):
        return params
    return jax.jit(lora.merge, out_shardings=places)(params)


def _refit(
    before: core.Params,
    model: transformer.Model,
    same_kind: bool,
    seed: int,
    init_from: str,
) -> core.Params:
    """Parameters of `model`: those of `before` that fit, and fresh ones; says which."""
    boxed = transformer.abstract(model)
    places = dict(trees.paths(model.sharding.of_boxed(boxed)))
    old = dict(trees.paths(before))
    taken: dict[str, jax.Array] = {}
    for path, leaf in trees.paths(nn.unbox(boxed)):
        if path not in old or (path in _OUTPUTS and not same_kind):
            continue
        if old[path].shape == leaf.shape:
            taken[path] = old[path]
        elif path in _OVER_VOCABULARY and old[path].shape[1:] == leaf.shape[1:]:
            taken[path] = _longer(old[path], leaf.shape[0], places[path])

    if 'head/unembed' in places and 'head/unembed' not in taken:
        # The head was tied: its weights were those of the embedding.
        taken['head/unembed'] = taken['tokens'] + 0

    @jax.jit
    def rest(key: jax.Array) -> dict[str, jax.Array]:
        made = trees.paths(transformer.init(model, key))
        return {path: leaf for path, leaf in made if path not in taken}

    new = rest(jax.random.key(seed))
    left = [path for path in old if path not in taken]
    if jax.process_index() == 0:
        print(
            f'of {init_from}: {len(taken)} weights taken; new: '
            f'{", ".join(new) or "none"}; left: {", ".join(left) or "none"}',
            file=sys.stderr,
        )
    return trees.map_with_path(
        lambda path, _: jax.device_put((taken | new)[path], places[path]),
        nn.unbox(boxed),
    )


def _longer(rows: jax.Array, length: int, place: Any) -> jax.Array:
    """The rows, and their mean as often as is needed to make `length` rows."""

    def lengthen(rows: jax.Array) -> jax.Array:
        mean = jnp.mean(rows, axis=0, keepdims=True)
        more = jnp.broadcast_to(mean, (length - len(rows), *rows.shape[1:]))
        return jnp.concatenate([rows, more])

    longer: jax.Array = jax.jit(lengthen, out_shardings=place)(rows)
    return longer

"""What a family's file gives, and how its config.json is read without loose ends."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from gptjax import command
from gptjax.exchange import tables
from gptjax.model import config as model_config

SIZE_LIMIT = 2**24  # of any width, vocabulary or context; far above every model
_REQUIRED: Any = object()

ACTIVATIONS = {
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'relu': 'relu',
    'relu2': 'relu_squared',
    'silu': 'silu',
    'swish': 'silu',
}

# Settings that do not change what a model computes from tokens, outside of training:
# about files and programs, ids of tokens, sampling, labels, and parallel execution.
_HARMLESS = """
    architectures model_type auto_map _name_or_path name_or_path transformers_version
    torch_dtype dtype use_cache return_dict output_attentions output_hidden_states
    output_past gradient_checkpointing torchscript _attn_implementation
    _attn_implementation_autoset attn_implementation _num_labels license tags
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id
    mask_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
    bad_words_ids suppress_tokens begin_suppress_tokens prefix
    task_specific_params max_length min_length num_beams num_beam_groups do_sample
    temperature top_k top_p typical_p repetition_penalty length_penalty early_stopping
    no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences
    diversity_penalty exponential_decay_length_penalty remove_invalid_values
    return_dict_in_generate output_scores
    id2label label2id num_labels finetuning_task
    chunk_size_feed_forward pretraining_tp tokenizer_class torch_compile
    attention_dropout activation_dropout classifier_dropout classif_dropout
    encoder_layerdrop decoder_layerdrop attn_pdrop embd_pdrop summary_first_dropout
    attention_probs_dropout_prob output_router_logits router_jitter_noise
    reorder_and_upcast_attn n_ctx gradient_checkpointing_kwargs
    summary_activation summary_proj_to_labels summary_type summary_use_proj
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
    pooler_size_per_head pooler_type max_sequence_length save_step
    force_bos_token_to_be_generated is_llama_config transformers.js_config
    unsloth_fixed unsloth_version
"""
HARMLESS = frozenset(_HARMLESS.split())


class Settings:
    """A config.json that is taken apart key by key: what is left over is refused."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._left = dict(config)
        self._config = dict(config)

    def take(
        self, name: str, kind: type[Any], default: Any = _REQUIRED, least: int = 1
    ) -> Any:
        """A setting of a type; null and absence are its default, if it has one.

        Raises UserError where it is missing, of another type or out of bounds.
        """
        value = self._left.pop(name, None)
        if value is None:
            if default is _REQUIRED:
                raise command.UserError(
                    f'config.json lacks {name}, without which the model is unknown.'
                )
            return default
        command.check_type(f'{name} of config.json', value, kind)
        if kind in (dict, list) and not isinstance(value, kind):
            raise self._wrong(name, value, 'a table' if kind is dict else 'a list')
        if kind is int and not least <= value <= SIZE_LIMIT:
            raise self._wrong(name, value, f'in {least} to {SIZE_LIMIT}')
        if kind is float:
            if not 0 <= value < math.inf:
                raise self._wrong(name, value, 'a finite number of at least 0')
            return float(value)
        return value

    def has(self, name: str) -> bool:
        """Whether a setting stands there, be it null, and was not taken."""
        return name in self._left

    def default(self, name: str, value: Any) -> None:
        """What a setting is that does not stand there."""
        self._left.setdefault(name, value)

    def peek(self, name: str, kind: type[Any]) -> Any:
        """As `take`, of a setting that will be taken later."""
        return Settings(self._left).take(name, kind)

    def only(self, name: str, *allowed: Any) -> None:
        """Refuses a setting other than `allowed`; absence is fine."""
        value = self._left.pop(name, None)
        if value is not None and value not in allowed:
            shown = ' or '.join(repr(one) for one in allowed) or 'absent'
            raise self._wrong(name, value, f'{shown}: the rest is not computed here')

    def activation(self, name: str, default: str) -> str:
        """An activation under our name; the default is under theirs."""
        theirs = self.take(name, str, default)
        if theirs not in ACTIVATIONS:
            raise self._wrong(name, theirs, f'one of {", ".join(ACTIVATIONS)}')
        return ACTIVATIONS[theirs]

    def architecture(self, kinds: Mapping[str, str]) -> str:
        """The kind of head of the class that the model was saved as."""
        classes = self._config.get('architectures')
        first = classes[0] if isinstance(classes, list) and classes else None
        if not isinstance(first, str) or first not in kinds:
            raise self._wrong('architectures', classes, f'one of {", ".join(kinds)}')
        return kinds[first]

    def classes(self, default: int = 2) -> int:
        """How many labels a classifier has."""
        labels = self._config.get('id2label')
        if isinstance(labels, Mapping) and labels:
            return len(labels)
        count = self._config.get('num_labels', default)
        if type(count) is not int or not 0 < count <= SIZE_LIMIT:
            raise self._wrong('num_labels', count, 'the number of labels')
        return count

    def done(self) -> None:
        """Refuses what nobody took, unless it is off or does not matter."""
        left = [
            f'{name}={value!r:.60}'
            for name, value in sorted(self._left.items())
            if name not in HARMLESS and value not in (None, False, 0, '', [], {})
        ]
        if left:
            raise command.UserError(
                f'config.json has settings that are not known here: {", ".join(left)}. '
                'They may change what the model computes; remove them if they do not.'
            )

    @staticmethod
    def _wrong(name: str, value: Any, needed: str) -> command.UserError:
        return command.UserError(
            f'{name} of config.json is {value!r:.80}; it needs to be {needed}.'
        )


@dataclasses.dataclass(frozen=True)
class Family:
    """A family as its files are."""

    kinds: Mapping[str, str]  # class of transformers -> kind of head
    table: Callable[[model_config.Architecture], Sequence[tables.Entry]]
    # (settings, names of the tensors) -> what they are of
    to_architecture: Callable[[Settings, frozenset[str]], model_config.Architecture]
    to_config: Callable[[model_config.Architecture], dict[str, Any]]
    prefix: str  # of the trunk's names; models without a head leave it out
    # (copy, original): tensors that old files have twice
    copies: Sequence[tuple[str, str]] = ()
    # patterns of names that hold nothing learned
    ignored: Sequence[str] = ()
    # a pattern of names that may hold what we compute, and what that is
    computed: tuple[str, Callable[[model_config.Architecture], np.ndarray]] | None = (
        None
    )
    # (pattern, replacement) of names that were once others
    renamed: Sequence[tuple[str, str]] = ()


def head(
    settings: Settings, kind: str, *, tied: bool, bias: bool = False, pooler: bool
) -> model_config.Head:
    """The head of a kind; a classifier of one label is a reward."""
    classes = settings.classes() if kind == 'classes' else 0
    # Several labels at once, whose shares are no distribution, are not computed.
    one = 'regression' if classes == 1 else 'single_label_classification'
    settings.only('problem_type', one)
    if classes == 1 and not pooler:
        kind, classes = 'reward', 0
    over_tokens = kind in ('tokens', 'masked', 'pretraining')
    return model_config.Head(
        kind=kind,
        tied=tied,
        bias=bias and over_tokens,
        pooler=pooler,
        classes=classes,
    )


def period(windows: Sequence[int]) -> tuple[int, ...]:
    """The shortest pattern that, repeated, is the windows of all layers."""
    found = next(
        n
        for n in range(1, len(windows) + 1)
        if all(window == windows[i % n] for i, window in enumerate(windows))
    )
    return tuple(windows[:found])


def head_width(D: int, N: int) -> int:
    """D / N; UserError where that is not whole."""
    if D % N:
        raise command.UserError(
            f'config.json has a width of {D}, which {N} heads do not divide.'
        )
    return D // N


def class_of(kinds: Mapping[str, str], kind: str) -> str:
    """The class of transformers for a kind of head; UserError where it has none."""
    kind = 'classes' if kind == 'reward' else kind
    for name, known in kinds.items():
        if known == kind:
            return name
    raise command.UserError(
        f'a model with the head {kind!r} has no class in transformers for '
        f'{", ".join(kinds)}; export one with another head.'
    )


def labels(arch: model_config.Architecture) -> dict[str, Any]:
    """The settings of a classifier's labels; {} for other heads."""
    count = {'classes': arch.head.classes, 'reward': 1}.get(arch.head.kind, 0)
    if not count:
        return {}
    return names_of_labels([f'LABEL_{i}' for i in range(count)])


def names_of_labels(names: Sequence[str]) -> dict[str, Any]:
    """The settings of a classifier whose classes have these names."""
    return {
        'id2label': {str(i): name for i, name in enumerate(names)},
        'label2id': {name: i for i, name in enumerate(names)},
    }


def activation_name(activation: str) -> str:
    """The name of one of our activations; UserError where transformers has none."""
    for theirs, ours in ACTIVATIONS.items():
        if ours == activation:
            return theirs
    raise command.UserError(f'transformers has no activation {activation!r}.')


def dense(
    name: str, path: str, theirs: str, ours: str, bias: tuple[str, str] | None = None
) -> tuple[tables.Entry, ...]:
    """A weight, and its bias with its two layouts, at `path` and `path`_bias."""
    weight = tables.Entry(f'{name}.weight', (path,), theirs, ours)
    if bias is None:
        return (weight,)
    return weight, tables.Entry(f'{name}.bias', (f'{path}_bias',), *bias)


def projections(
    name: Callable[[str], str], path: str, keys: str = 'N'
) -> tuple[tables.Entry, ...]:
    """Queries, keys and values with their biases; `name` of each tensor.

    keys: the letter of the heads of keys and values.
    """
    made: tuple[tables.Entry, ...] = ()
    for part, heads in (('query', 'N'), ('key', keys), ('value', keys)):
        joined, apart = f'({heads} H)', f'{heads} H'
        layouts = f'{joined} D', f'D {apart}', (joined, apart)
        made += dense(name(part), f'{path}/{part}', *layouts)
    return made


def scale(name: str, path: str) -> tables.Entry:
    """The scale of a norm over D."""
    return tables.Entry(f'{name}.weight', (f'{path}/scale',), 'D', 'D')


def norm(name: str, path: str) -> tuple[tables.Entry, ...]:
    """The scale and the bias of a norm over D."""
    bias = tables.Entry(f'{name}.bias', (f'{path}/bias',), 'D', 'D')
    return scale(name, path), bias

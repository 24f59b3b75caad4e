"""The configurations that are compared with `transformers`, and what they are fed.

They are odd on purpose: lengths and head widths that nothing divides, 3 layers, padding
on the left, on the right and on both sides, rows as long as the context, batches of 1,
1 to N queries to a key/value head.
"""

import dataclasses
from typing import Any
import zlib

import numpy as np

HEADLESS = ('BartModel', 'BertModel', 'GPT2Model', 'MarianModel', 'MistralModel')
V = 41
PAD = 1
_PADDED = ((0, 0), (3, 0), (0, 4), (2, 1))  # of each row: on the left, on the right
# BERT's pooler reads the first place of a row, be it padding or not.
_RIGHT = ((0, 0), (0, 4), (0, 1))
_ONE = ((0, 0),)


@dataclasses.dataclass(frozen=True)
class Case:
    """A class of `transformers` with its configuration, and the rows that it reads."""

    model: str
    config: dict[str, Any]
    T: int = 13
    padding: tuple[tuple[int, int], ...] = _PADDED
    types: bool = False  # token types are 0 and 1
    legacy: bool = False  # config.json as transformers 4 wrote it

    @property
    def counted(self) -> bool:
        """Whether positions count real tokens; else they are places in the row."""
        return not self.model.startswith(('Bert', 'Bart', 'Marian'))

    @property
    def outputs(self) -> tuple[str, ...]:
        if self.model in HEADLESS:
            return ('hidden',)
        if self.model == 'BertForPreTraining':
            return ('logits', 'classes')
        classifier = self.model.endswith('Classification')
        return ('classes',) if classifier else ('logits',)

    @property
    def seq2seq(self) -> bool:
        return self.model.startswith(('Bart', 'Marian'))


def _gpt2(**changes: Any) -> dict[str, Any]:
    sizes = {'n_positions': 13, 'n_embd': 20, 'n_layer': 3, 'n_head': 2}
    ids = {'bos_token_id': 2, 'eos_token_id': 2, 'pad_token_id': PAD}
    return {'vocab_size': V, **sizes, **ids, **changes}


def _llama(N: int, K: int, D: int = 24, **changes: Any) -> dict[str, Any]:
    sizes = {'hidden_size': D, 'intermediate_size': 28, 'num_hidden_layers': 3}
    heads = {'num_attention_heads': N, 'num_key_value_heads': K}
    rest = {'max_position_embeddings': 13, 'pad_token_id': PAD}
    return {'vocab_size': V, **sizes, **heads, **rest, **changes}


def _bert(N: int = 4, D: int = 24, T: int = 13, **changes: Any) -> dict[str, Any]:
    sizes = {'hidden_size': D, 'intermediate_size': 28, 'num_hidden_layers': 3}
    rest = {'num_attention_heads': N, 'max_position_embeddings': T}
    return {'vocab_size': V, **sizes, **rest, 'pad_token_id': PAD, **changes}


def _bart(N: int = 2, layers: tuple[int, int] = (2, 3), **changes: Any):
    made: dict[str, Any] = {'vocab_size': V, 'd_model': 20}
    for part, L in zip(('encoder', 'decoder'), layers, strict=True):
        made[f'{part}_layers'] = L
        made[f'{part}_attention_heads'] = N
        made[f'{part}_ffn_dim'] = 28
    ids = {'decoder_start_token_id': 2, 'eos_token_id': 2, 'forced_eos_token_id': 2}
    return {
        **made,
        'max_position_embeddings': 13,
        'pad_token_id': PAD,
        **ids,
        **changes,
    }


_LINEAR = {'rope_type': 'linear', 'factor': 3.0, 'rope_theta': 1e4}
_LLAMA3 = {
    'rope_type': 'llama3',
    'rope_theta': 100.0,  # so that some of a head's few wavelengths are slow here
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 32,
}
_DEFAULT = {'rope_type': 'default', 'rope_theta': 1e6}
_WINDOW = {'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 1}

CASES = {
    'gpt2': Case('GPT2LMHeadModel', _gpt2()),
    'gpt2-one': Case(
        'GPT2LMHeadModel',
        _gpt2(n_embd=15, n_head=3, n_inner=22, layer_norm_epsilon=1e-3),
        T=11,
        padding=_ONE,
    ),
    'gpt2-hidden': Case('GPT2Model', _gpt2()),
    'gpt2-classes': Case('GPT2ForSequenceClassification', _gpt2(num_labels=3)),
    'llama-groups-1': Case('LlamaForCausalLM', _llama(4, 4, tie_word_embeddings=True)),
    'llama': Case('LlamaForCausalLM', _llama(4, 2, rope_parameters=_LLAMA3)),
    'llama-groups-3': Case(
        'LlamaForCausalLM',
        _llama(6, 2, rope_parameters=_LLAMA3, rms_norm_eps=1e-3),
        legacy=True,
    ),
    'llama-groups-4': Case(
        'LlamaForCausalLM',
        _llama(4, 1, head_dim=10, rope_parameters=_LINEAR),
        T=9,
        padding=_ONE,
    ),
    'llama-linear-legacy': Case(
        'LlamaForCausalLM', _llama(4, 2, rope_parameters=_LINEAR), legacy=True
    ),
    'llama-classes': Case(
        'LlamaForSequenceClassification', _llama(6, 3, D=36, num_labels=4)
    ),
    'mistral': Case('MistralForCausalLM', _llama(4, 2, sliding_window=5)),
    'mistral-one': Case(
        'MistralForCausalLM',
        _llama(6, 1, D=36, sliding_window=None, rope_parameters=_DEFAULT),
        padding=_ONE,
    ),
    'mistral-hidden': Case('MistralModel', _llama(4, 2, sliding_window=5)),
    'qwen2': Case('Qwen2ForCausalLM', _llama(4, 2, tie_word_embeddings=True)),
    'qwen2-windows': Case('Qwen2ForCausalLM', _llama(4, 1, **_WINDOW), T=12),
    'qwen3': Case('Qwen3ForCausalLM', _llama(4, 2, head_dim=10)),
    'qwen3-one': Case(
        'Qwen3ForCausalLM',
        _llama(2, 2, head_dim=6, tie_word_embeddings=True, rope_parameters=_DEFAULT),
        T=7,
        padding=_ONE,
    ),
    'mixtral': Case(
        'MixtralForCausalLM',
        _llama(4, 2, num_local_experts=4, num_experts_per_tok=2),
    ),
    'mixtral-one': Case(
        'MixtralForCausalLM',
        _llama(4, 4, num_local_experts=5, num_experts_per_tok=3, sliding_window=4),
        T=11,
        padding=_ONE,
    ),
    'bert': Case('BertForMaskedLM', _bert(), types=True),
    'bert-one': Case(
        'BertForMaskedLM', _bert(2, 20, hidden_act='relu'), T=9, padding=_ONE
    ),
    'bert-pretraining': Case('BertForPreTraining', _bert(), padding=_RIGHT, types=True),
    'bert-classes': Case(
        'BertForSequenceClassification',
        _bert(num_labels=3, layer_norm_eps=1e-5),
        padding=_RIGHT,
        types=True,
    ),
    'bert-hidden': Case('BertModel', _bert(), types=True),
    'bert-causal': Case('BertLMHeadModel', _bert(is_decoder=True)),
    'roberta': Case('RobertaForMaskedLM', _bert(T=15, type_vocab_size=1)),
    'roberta-one': Case(
        'RobertaForMaskedLM',
        _bert(3, 15, T=15, type_vocab_size=1),
        T=11,
        padding=_ONE,
    ),
    'roberta-classes': Case(
        'RobertaForSequenceClassification',
        _bert(T=15, type_vocab_size=1, num_labels=3, layer_norm_eps=1e-5),
        padding=_RIGHT,
    ),
    'roberta-causal': Case(
        'RobertaForCausalLM', _bert(T=15, type_vocab_size=1, is_decoder=True)
    ),
    'bart': Case('BartForConditionalGeneration', _bart()),
    'bart-one': Case(
        'BartForConditionalGeneration',
        _bart(4, (3, 1), scale_embedding=True, activation_function='relu'),
        T=11,
        padding=_ONE,
    ),
    'bart-hidden': Case('BartModel', _bart()),
    'marian': Case(
        'MarianMTModel', _bart(activation_function='swish', scale_embedding=True)
    ),
    'marian-hidden': Case('MarianModel', _bart(activation_function='relu')),
    'marian-one': Case(
        'MarianMTModel',
        _bart(5, (1, 2), activation_function='relu'),
        T=9,
        padding=_ONE,
    ),
}

# Whose gradients are in the golden file too: to compile them takes four times as long
# as the logits, so `make test` has one case a family, `make test-parity` all of them.
GRADIENTS = frozenset(
    [name for name in CASES if '-' not in name] + ['bert-pretraining']
)


def _rows(
    case: Case, padding: tuple[tuple[int, int], ...], T: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, positions, segments), int32 [B, T]."""
    tokens = rng.integers(3, V, (len(padding), T))
    segments = np.ones_like(tokens)
    for row, (left, right) in enumerate(padding):
        segments[row, :left] = segments[row, T - right :] = 0
    places = np.broadcast_to(np.arange(T), tokens.shape)
    counted = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    positions = counted if case.counted else places
    made = np.where(segments, tokens, PAD), positions, segments
    return tuple(array.astype(np.int32) for array in made)  # type: ignore[return-value]


def inputs(name: str, seed: int) -> dict[str, np.ndarray]:
    """A batch of our model, targets of tokens [B, T] and labels of rows [B]."""
    case = CASES[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    batch = dict(
        zip(
            ('tokens', 'positions', 'segments'),
            _rows(case, case.padding, case.T, rng),
            strict=True,
        )
    )
    if case.types:
        ends = rng.integers(2, case.T - 2, (len(case.padding), 1))
        batch['types'] = (np.arange(case.T) >= ends).astype(np.int32)
    if case.seq2seq:
        # Sources are shorter than the context and padded otherwise than their targets.
        rows = _rows(case, case.padding[::-1], case.T - 2, rng)
        names = ('source', 'source_positions', 'source_segments')
        batch |= dict(zip(names, rows, strict=True))
    targets = rng.integers(0, V, batch['tokens'].shape).astype(np.int32)
    classes = case.config.get('num_labels', 2)
    labels = rng.integers(0, classes, len(case.padding)).astype(np.int32)
    return {**batch, 'targets': targets, 'labels': labels}

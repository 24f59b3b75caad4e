"""Files of llama.cpp, which runs models on laptops and phones: GGUF, one file a model.

Written by the library `gguf`, tensor by tensor. llama.cpp turns queries and keys of its
architecture 'llama' in interleaved pairs, ours are halves: their rows are in another
order there. It knows no sliding windows for these architectures; a file says that the
context ends where the first window does, so that both compute the same.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import command, core, trees
from gptjax.exchange import fixed, tables, vocabulary
from gptjax.model import config as model_config
from gptjax.model import positions
from gptjax.text import template, tokenizer

Entry = tables.Entry
DTYPES = {'float32': np.float32, 'float16': np.float16}
FILE_TYPES = {'float32': 0, 'float16': 1}  # general.file_type
# As in llama.cpp's own files, these stay in float32, and so do all vectors.
FULL = ('position_embd.weight', 'ffn_gate_inp.weight')
ROPE_FACTORS = 'rope_freqs.weight'


def _block(name: str, path: str, theirs: str, ours: str) -> Entry:
    return Entry(f'blk.{{l}}.{name}', (f'blocks/{path}',), theirs, ours)


COMMON = (
    Entry('token_embd.weight', ('tokens',), 'V D', 'V D'),
    Entry('output.weight', ('head/unembed',), 'V D', 'V D'),
    Entry('output_norm.weight', ('norm/scale',), 'D', 'D'),
    _block('attn_norm.weight', 'attention_norm/scale', 'D', 'D'),
    _block('attn_output.weight', 'attention/out', 'D (N H)', 'N H D'),
    _block('attn_output.bias', 'attention/out_bias', 'D', 'D'),
    _block('ffn_norm.weight', 'mlp_norm/scale', 'D', 'D'),
    _block('ffn_up.weight', 'mlp/up', 'F D', 'D F'),
    _block('ffn_up.bias', 'mlp/up_bias', 'F', 'F'),
    _block('ffn_down.weight', 'mlp/down', 'D F', 'F D'),
    _block('ffn_down.bias', 'mlp/down_bias', 'D', 'D'),
)
GATED = (
    *COMMON,
    _block('attn_v.weight', 'attention/value', '(K H) D', 'D K H'),
    _block('attn_v.bias', 'attention/value_bias', '(K H)', 'K H'),
    _block('ffn_gate.weight', 'mlp/gate', 'F D', 'D F'),
    _block('ffn_gate.bias', 'mlp/gate_bias', 'F', 'F'),
)
LLAMA = (
    *GATED,
    _block('attn_q.weight', 'attention/query', '(N h 2) D', 'D N (2 h)'),
    _block('attn_q.bias', 'attention/query_bias', '(N h 2)', 'N (2 h)'),
    _block('attn_k.weight', 'attention/key', '(K h 2) D', 'D K (2 h)'),
    _block('attn_k.bias', 'attention/key_bias', '(K h 2)', 'K (2 h)'),
    _block('ffn_gate_inp.weight', 'experts/router', 'E D', 'D E'),
    _block('ffn_gate_exps.weight', 'experts/gate', 'E F D', 'E D F'),
    _block('ffn_up_exps.weight', 'experts/up', 'E F D', 'E D F'),
    _block('ffn_down_exps.weight', 'experts/down', 'E D F', 'E F D'),
)
QWEN = (
    *GATED,
    _block('attn_q.weight', 'attention/query', '(N H) D', 'D N H'),
    _block('attn_q.bias', 'attention/query_bias', '(N H)', 'N H'),
    _block('attn_q_norm.weight', 'attention/query_norm', 'H', 'H'),
    _block('attn_k.weight', 'attention/key', '(K H) D', 'D K H'),
    _block('attn_k.bias', 'attention/key_bias', '(K H)', 'K H'),
    _block('attn_k_norm.weight', 'attention/key_norm', 'H', 'H'),
)
_STACKED = ('query', 'key', 'value')
GPT2 = (
    *COMMON,
    Entry('position_embd.weight', ('positions',), 'P D', 'P D'),
    Entry('output_norm.bias', ('norm/bias',), 'D', 'D'),
    _block('attn_norm.bias', 'attention_norm/bias', 'D', 'D'),
    _block('ffn_norm.bias', 'mlp_norm/bias', 'D', 'D'),
    Entry(
        'blk.{l}.attn_qkv.weight',
        tuple(f'blocks/attention/{part}' for part in _STACKED),
        '(3 N H) D',
        'D N H',
    ),
    Entry(
        'blk.{l}.attn_qkv.bias',
        tuple(f'blocks/attention/{part}_bias' for part in _STACKED),
        '(3 N H)',
        'N H',
    ),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """An architecture of llama.cpp: its name, its tensors, and what it fixes."""

    name: str
    table: Sequence[Entry]
    fixed: dict[str, tuple[Any, ...]]


_LLAMA = Kind('llama', LLAMA, fixed.LLAMA | {'norms.query_key': (False,)})
_QWEN = fixed.LLAMA | {
    'attention_bias': ('none', 'qkv'),
    'experts': (None,),
    'mlp_bias': (False,),
    'positions.scaling': ('none', 'linear'),
}
KINDS = {
    'llama': _LLAMA,
    'mistral': _LLAMA,
    'mixtral': _LLAMA,
    'qwen2': Kind('qwen2', QWEN, _QWEN | {'norms.query_key': (False,)}),
    'qwen3': Kind('qwen3', QWEN, _QWEN | {'norms.query_key': (True,)}),
    'gpt2': Kind(
        'gpt2',
        GPT2,
        fixed.LLAMA
        | {
            'activation': ('gelu_tanh',),
            'attention_bias': ('all',),
            'experts': (None,),
            'mlp_bias': (True,),
            'norms.bias': (True,),
            'norms.kind': ('layer',),
            'norms.query_key': (False,),
            'positions.kind': ('learned',),
            'positions.offset': (0,),
        },
    ),
}
REFUSED = {
    'gpt3': 'its GPT-2 has no banded attention',
    'modern': 'it has no squared ReLU without gates under rotary positions',
    'bert': 'it serves encoders for embeddings alone, without their heads',
    'roberta': 'it serves encoders for embeddings alone, without their heads',
    'transformer': 'it has no encoder-decoder but T5',
    'marian': 'it has no encoder-decoder but T5',
    'bart': 'it has no encoder-decoder but T5',
}


def save(
    arch: model_config.Architecture,
    params: core.Params,
    tokens: tokenizer.Tokenizer,
    path: str | os.PathLike[str],
    dtype: str = 'float32',
    *,
    name: str = '',
    license: str = '',
) -> None:
    """Writes a file for llama.cpp; it appears whole or not at all.

    dtype: 'float32', or 'float16' for all matrices but routers and positions.
    name, license: of the model, for `general.*`; '' is left out.

    Raises UserError for a family, a setting or a tokenizer that llama.cpp has no equal
    of, for a weight too large for float16, and where the library is missing.
    """
    library = _library()
    kind = _kind(arch)
    command.lookup(DTYPES, dtype, 'dtype')
    words = vocabulary.of(tokens, arch.V)
    entries = tables.present(kind.table, dict(trees.paths(params)))
    with tokenizer.whole(Path(path)) as unfinished:
        writer = library.GGUFWriter(unfinished, kind.name)
        with contextlib.closing(writer):
            _describe(writer, arch)
            _describe_words(writer, words, tokens)
            writer.add_file_type(FILE_TYPES[dtype])
            writer.add_name(name)
            writer.add_license(license)
            _write(writer, arch, entries, params, dtype)


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise command.UserError(
            "GGUF files need the library gguf; install it: pip install 'gptjax[gguf]'"
        ) from error
    return gguf


def _kind(arch: model_config.Architecture) -> Kind:
    if arch.family in REFUSED:
        raise command.UserError(
            f'llama.cpp has no equal of the {arch.family} family: '
            f'{REFUSED[arch.family]}. It has {", ".join(KINDS)}; --format=huggingface '
            'has more.'
        )
    kind: Kind = command.lookup(KINDS, arch.family, 'family of GGUF files')
    also: dict[str, tuple[Any, ...]] = {}
    if kind.name == 'gpt2':
        also = {
            'K': (arch.N,),
            'H': (arch.D // arch.N,),
            'windows': ((0,) * len(arch.windows),),
        }
    fixed.check(arch, kind.fixed | also, f"llama.cpp's {kind.name}")
    return kind


def context(arch: model_config.Architecture) -> int:
    """The longest row for which no window hides a token."""
    return min([arch.T, *(window for window in arch.windows if window)])


def rope_factors(arch: model_config.Architecture) -> np.ndarray:
    """What llama.cpp divides the frequencies of rotary positions by, float32 [H/2]."""
    frequencies = arch.positions.base ** -(np.arange(0, arch.H, 2) / arch.H)
    scaled = positions.scaled(frequencies, arch.positions)
    return (frequencies / scaled).astype(np.float32)


def _describe(writer: Any, arch: model_config.Architecture) -> None:
    """The sizes and settings, under the keys that llama.cpp reads."""
    writer.add_context_length(context(arch))
    writer.add_embedding_length(arch.D)
    writer.add_block_count(arch.L)
    writer.add_feed_forward_length(arch.F)
    writer.add_head_count(arch.N)
    writer.add_head_count_kv(arch.K)
    writer.add_vocab_size(arch.V)
    if arch.norms.kind == 'layer':
        writer.add_layer_norm_eps(arch.norms.eps)
    else:
        writer.add_layer_norm_rms_eps(arch.norms.eps)
    if arch.positions.kind == 'rotary':
        writer.add_rope_dimension_count(arch.H)
        writer.add_rope_freq_base(arch.positions.base)
        writer.add_key_length(arch.H)
        writer.add_value_length(arch.H)
    if arch.positions.scaling == 'linear':
        writer.add_rope_scaling_type(_library().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(arch.positions.factor)
    if arch.experts is not None:
        writer.add_expert_count(arch.experts.E)
        writer.add_expert_used_count(arch.experts.k)
    if any(arch.windows):
        writer.add_sliding_window(min(window for window in arch.windows if window))


def _describe_words(
    writer: Any, words: vocabulary.Vocabulary, tokens: tokenizer.Tokenizer
) -> None:
    """The tokenizer: its pieces, its control tokens, and what surrounds a text."""
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.pieces)
    writer.add_token_scores(words.scores)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    begin = tokens.control[tokenizer.BEGIN]
    end = tokens.special.get(tokens.words.get('eos_token', ''), begin)
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end)
    others = [token for token in tokens.ends if token != end]
    if others:
        writer.add_eot_token_id(others[-1])
    if vocabulary.UNKNOWN in words.kinds:
        writer.add_unk_token_id(words.kinds.index(vocabulary.UNKNOWN))
    if tokenizer.PAD in tokens.control:
        writer.add_pad_token_id(tokens.control[tokenizer.PAD])
    writer.add_add_bos_token(tokens.prefix == (begin,))
    writer.add_add_eos_token(tokens.suffix == (end,))
    writer.add_add_space_prefix(tokens.dummy_prefix)
    chats = {*tokenizer.ROLES, tokenizer.END} <= tokens.control.keys()
    writer.add_chat_template(template.OURS if chats else tokens.template)


def _write(
    writer: Any,
    arch: model_config.Architecture,
    entries: Sequence[Entry],
    params: core.Params,
    dtype: str,
) -> None:
    """The table of tensors, and then the tensors, one at a time."""
    for name, shape in tables.expected(arch, entries).items():
        kept = _dtype(name, shape, dtype)
        size = kept.itemsize * int(np.prod(shape, dtype=np.int64))
        writer.add_tensor_info(name, shape, kept, size)
    factors = rope_factors(arch) if arch.positions.scaling == 'llama3' else None
    if factors is not None:
        writer.add_tensor_info(
            ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, array in tables.dump(arch, entries, params):
        writer.write_tensor_data(_cast(name, array, dtype))
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.flush()


def _dtype(name: str, shape: tuple[int, ...], dtype: str) -> np.dtype[Any]:
    whole = len(shape) == 1 or name.endswith(FULL)
    return np.dtype(np.float32 if whole else DTYPES[dtype])


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    kept = _dtype(name, array.shape, dtype)
    with np.errstate(over='ignore'):
        cast = np.ascontiguousarray(array, kept)
    if kept == np.float16 and not np.isfinite(cast).all():
        raise command.UserError(
            f'{name} has a value of {np.abs(array).max():.4g}, and float16 ends at '
            '65504; export with --dtype=float32.'
        )
    return cast

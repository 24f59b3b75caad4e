"""Deduplication: MinHash against datasketch and rensa, planted pairs, templates.

The peers run in the Python that GPTJAX_PEERS names, by turns with ours, on one core
each; medians of ROUNDS. Both sides first show equal signatures, of datasketch's SHA-1
of the shingles and of our hashes.
"""

from collections.abc import Callable, Iterator
import hashlib
import itertools
import json
import os
from pathlib import Path
import random
import re
import statistics
import subprocess
import tarfile
import tempfile
import time
from typing import Any

import numpy as np

from gptjax.data import documents, steps
from gptjax.data.dedup import hashes, minhash, near, substring

COUNT, SEED, NGRAM = 112, 1, 5
TEXTS, WORDS, ROUNDS = 1000, 500, 9
PAIRS = 2000  # of each bin of similarity
FINEWEB: dict[str, Any] = dict(
    ngram=NGRAM, permutations=COUNT, bands=14, rows=8, seed=SEED
)
CHANGES = {0.5: (10, 13), 0.6: (6, 10), 0.7: (4, 7), 0.8: (2, 4), 0.9: (1, 2)}


def rows() -> Iterator[dict[str, Any]]:
    yield from _speed()
    yield from _quality()


def _speed() -> Iterator[dict[str, Any]]:
    if 'GPTJAX_DATA' not in os.environ:
        print('dedup: GPTJAX_DATA is unset; the rows of speed are left out')
        return
    texts = book_texts(Path(os.environ['GPTJAX_DATA']))
    ours = _ours(texts)
    if 'GPTJAX_PEERS' in os.environ:
        times, equal = _with_peers(texts, ours)
    else:
        print('dedup: GPTJAX_PEERS is unset; the rows with peers are left out')
        runs = [_timed(ours['texts']) for _ in range(ROUNDS)]
        times, equal = {'ours texts': statistics.median(runs)}, False
    yield {
        'name': f'MinHash, texts of {WORDS} words',
        'value': len(texts) / times['ours texts'],
        'goal': 1500,
        'direction': 'max',
        'unit': 'texts/s',
    }
    compared = (
        ('MinHash of a text / datasketch update_batch', 'texts', 'update_batch', 5),
        ('MinHash of a text / datasketch from the text', 'texts', 'texts', 5),
        ('MinHash of the same hashes / datasketch', 'hashes', 'hashes', 1),
        ('MinHash of the same SHA-1 / datasketch', 'sha1', 'update_batch', 1),
        ('MinHash of a text / rensa (for the record)', 'texts', 'rensa', 0),
    )
    for name, own, peer, goal in compared if equal else ():
        seconds = times[f'ours {own}'], times[f'peer {peer}']
        yield {
            'name': name,
            'value': seconds[1] / seconds[0],
            'goal': goal,
            'direction': 'max',
            'unit': 'times as fast',
            'ours': len(texts) / seconds[0],
            'peer': len(texts) / seconds[1],
        }


def book_texts(data: Path) -> list[str]:
    """Words of books, in lower case, WORDS to a text."""
    words: list[str] = []
    for file in sorted((data / 'standardebooks').glob('*.tar.gz')):
        with tarfile.open(file) as inside:
            for member in inside:
                if member.name.endswith('.xhtml'):
                    page = inside.extractfile(member)
                    assert page is not None
                    text = re.sub(r'<[^>]*>', ' ', page.read().decode())
                    raw, starts, ends = hashes.words(text)
                    words += [
                        raw[a:b].tobytes().decode()
                        for a, b in zip(starts, ends, strict=True)
                    ]
        if len(words) >= TEXTS * WORDS:
            break
    return [' '.join(words[i * WORDS : (i + 1) * WORDS]) for i in range(TEXTS)]


def _ours(texts: list[str]) -> dict[str, Callable[[], Any]]:
    signer = minhash.Signer(*minhash.permutations(COUNT, SEED))
    taken = [minhash.upper(minhash.shingles(text, NGRAM)) for text in texts]
    words = [text.split() for text in texts]
    shingles = [
        [' '.join(one[i : i + NGRAM]).encode() for i in range(len(one) - NGRAM + 1)]
        for one in words
    ]
    return {
        'texts': lambda: [
            signer(minhash.upper(minhash.shingles(text, NGRAM))) for text in texts
        ],
        'hashes': lambda: [signer(one) for one in taken],
        'sha1': lambda: [signer(minhash.sha1(one)) for one in shingles],
    }


def _with_peers(
    texts: list[str], ours: dict[str, Callable[[], Any]]
) -> tuple[dict[str, float], bool]:
    """Median seconds of each task of each side; whether the signatures are equal."""
    taken = [minhash.upper(minhash.shingles(text, NGRAM)).tolist() for text in texts]
    names = ('update_batch', 'texts', 'hashes', 'rensa')
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ('texts.json', 'hashes.json')]
        for file, content in zip(files, (texts, taken), strict=True):
            Path(file).write_text(json.dumps(content))
        script = str(Path(__file__).with_name('_peer_minhash.py'))
        peer = subprocess.Popen(
            [os.environ['GPTJAX_PEERS'], script, *files],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stdin, stdout = peer.stdin, peer.stdout
        assert stdin is not None
        assert stdout is not None

        def ask(task: str) -> str:
            stdin.write(task + '\n')
            stdin.flush()
            return stdout.readline()

        digests = [
            hashlib.sha256(np.stack(ours[name]()).tobytes()).hexdigest()
            for name in ('sha1', 'hashes')
        ]
        equal = ask('equal').split() == digests
        assert equal, 'signatures differ from those of datasketch'
        for _ in range(ROUNDS if equal else 1):
            for name, task in ours.items():
                times.setdefault(f'ours {name}', []).append(_timed(task))
            for name in names if equal else ():
                times.setdefault(f'peer {name}', []).append(float(ask(name)))
        stdin.close()
        peer.wait()
    return {name: statistics.median(found) for name, found in times.items()}, equal


def _timed(task: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def _quality() -> Iterator[dict[str, Any]]:
    bands = near.MinHash(**FINEWEB, jaccard=0.0).bands
    off, recall = 0.0, 1.0
    found: list[documents.Document] = []
    scores: dict[str, float] = {}
    for low, pairs in planted().items():
        met = [bool({*bands(one)} & {*bands(two)}) for one, two, _ in pairs]
        theory = [1 - (1 - score**8) ** 14 for *_, score in pairs]
        off = max(off, float(abs(np.mean(met) - np.mean(theory))))
        recall = min(recall, float(np.mean(met))) if low == 0.9 else recall
        for number, (one, two, score) in enumerate(pairs):
            scores[f'{low} {number}'] = score
            found += [_document(f'{low} {number} a', one)]
            found += [_document(f'{low} {number} b', two)]
    result = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.7), found)
    gone = [scores[one.id[:-2]] for one, after in result if after is not one]
    result = steps.in_memory(near.MinHash(**FINEWEB, jaccard=0.7), list(_templates()))
    lost = sum(after is not one for one, after in result)
    for name, value, goal, direction, unit in (
        ('planted pairs, recall at Jaccard 0.9 to 1', recall, 0.99, 'max', 'share'),
        ('planted pairs, recall off theory, worst bin', off, 0.04, 'min', 'share'),
        ('left out, of Jaccard 0.7 or more', np.mean(np.array(gone) >= 0.7), 0.99,
         'max', 'share'),
        ('left out, of Jaccard below 0.5', sum(x < 0.5 for x in gone), 0, 'min',
         'texts'),
        ('left out of 1,000 pages of one template', lost, 0, 'min', 'pages'),
        ('planted repeats of tokens that stay, or more cut', _repeats(), 0, 'min',
         'texts'),
    ):  # fmt: skip
        yield {
            'name': name, 'value': float(value), 'goal': goal, 'direction': direction,
            'unit': unit,
        }  # fmt: skip


def planted() -> dict[float, list[tuple[str, str, float]]]:
    """PAIRS of texts of 200 words for each bin of similarity, with that."""
    drawn = random.Random(0)
    words = [f'w{number}' for number in range(5000)]
    found: dict[float, list[tuple[str, str, float]]] = {low: [] for low in CHANGES}
    for low, high in itertools.pairwise([*CHANGES, 1.0]):
        while len(found[low]) < PAIRS:
            one = drawn.choices(words, k=200)
            two = list(one)
            for place in drawn.sample(range(200), drawn.randint(*CHANGES[low])):
                two[place] = drawn.choice(words)
            first, second = (
                {tuple(text[i : i + NGRAM]) for i in range(201 - NGRAM)}
                for text in (one, two)
            )
            score = len(first & second) / len(first | second)
            if low <= score < high:
                found[low].append((' '.join(one), ' '.join(two), score))
    return found


def _templates() -> Iterator[documents.Document]:
    drawn = random.Random(2)
    words = [f'w{number}' for number in range(20_000)]
    shared = ' '.join(drawn.choices(words, k=120))
    for number in range(1000):
        own = ' '.join(drawn.choices(words, k=80))
        yield _document(f'page {number}', f'{shared} {own}')


def _repeats() -> int:
    """Of 1,000 texts, half with a repeat of 50 tokens in their middle: how many differ
    from what they have to be.
    """
    group = substring.Substring(tokens=50, tokenizer=None)
    names = sorted((f'text {n}' for n in range(1000)), key=documents.key)
    texts, expected = {}, {}
    for number, name in enumerate(names):
        of = number // 2
        same = ' '.join(f's{of}x{n}' for n in range(50))
        texts[name] = f'a{number} b\u00e9{number} {same} \u4e2d{number}'
        again = f'a{number} b\u00e9{number} \u4e2d{number}'
        expected[name] = again if number % 2 else texts[name]
    result = steps.in_memory(group, [_document(*item) for item in texts.items()])
    return sum(
        not isinstance(after, documents.Document) or after.text != expected[one.id]
        for one, after in result
    )


def _document(identity: str, text: str) -> documents.Document:
    return documents.Document(identity, 'planted', 'CC0-1.0', text=text)

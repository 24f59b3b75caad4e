"""MinHash of datasketch and rensa, timed in the Python of GPTJAX_PEERS.

Standard input: a JSON file of texts whose words are joined by single spaces, then names
of tasks, a line each. Standard output: seconds for each of them. `equal` prints digests
of the signatures, of SHA-1 and of given hashes.
"""

from collections.abc import Callable
import hashlib
import json
from pathlib import Path
import sys
import time

import datasketch
import rensa

COUNT, SEED, NGRAM = 112, 1, 5


def main() -> None:
    texts = json.loads(Path(sys.argv[1]).read_text())
    hashes = json.loads(Path(sys.argv[2]).read_text())
    shared = datasketch.MinHash(COUNT, seed=SEED)

    def sketch(items: list, hashfunc: Callable | None = None) -> datasketch.MinHash:
        made = datasketch.MinHash(
            COUNT, permutations=shared.permutations, scheme='affine32',
            hashfunc=hashfunc,
        )  # fmt: skip
        made.update_batch(items)
        return made

    def shingles(text: str) -> list[str]:
        words = text.split()
        return [' '.join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]

    def whole() -> None:
        for text in texts:
            sketch([shingle.encode() for shingle in shingles(text)])

    strings = [shingles(text) for text in texts]
    encoded = [[shingle.encode() for shingle in one] for one in strings]

    def rust() -> None:
        for one in strings:
            made = rensa.RMinHash(COUNT, SEED)
            made.update(one)
            made.digest()

    tasks = {
        'texts': whole,
        'update_batch': lambda: [sketch(one) for one in encoded],
        'hashes': lambda: [sketch(one, int) for one in hashes],
        'rensa': rust,
    }
    for line in sys.stdin:
        if line.strip() == 'equal':
            made = ([sketch(x) for x in encoded], [sketch(x, int) for x in hashes])
            print(*(digest(b''.join(s.hashvalues for s in one)) for one in made))
        else:
            begun = time.perf_counter()
            tasks[line.strip()]()
            print(time.perf_counter() - begun)
        sys.stdout.flush()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == '__main__':
    main()

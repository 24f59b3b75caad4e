"""Makes tests/golden/minhash.npz: signatures of 100 texts by datasketch 2.

    PYTHON_WITH_DATASKETCH tests/golden/make_minhash.py

texts: a line each, in UTF-8, of 5 to 300 words out of 400. signatures: those of
MinHash(112, seed=1), whose default is the scheme affine32, of the sets of word 5-grams,
each joined by spaces in UTF-8.
"""

from pathlib import Path
import random

import datasketch
import numpy as np

FILE = Path(__file__).with_name('minhash.npz')


def texts() -> list[str]:
    drawn = random.Random(0)
    letters = 'abcdefghijklmnopqrstuvwxyz\u00e9\u4e2d'
    words = [''.join(drawn.choices(letters, k=drawn.randint(1, 8))) for _ in range(400)]
    return [' '.join(drawn.choices(words, k=drawn.randint(5, 300))) for _ in range(100)]


def main() -> None:
    signatures = []
    for text in texts():
        words = text.split()
        sketch = datasketch.MinHash(112, seed=1)
        sketch.update_batch(
            [' '.join(words[i : i + 5]).encode() for i in range(len(words) - 4)]
        )
        signatures.append(sketch.hashvalues)
    joined = np.frombuffer('\n'.join(texts()).encode(), np.uint8)
    np.savez_compressed(FILE, texts=joined, signatures=np.stack(signatures))


if __name__ == '__main__':
    main()

"""Strings that are hard on tokenizers, as many as one asks for: equal for equal seeds.

40 scripts, emoji joined and flagged, control characters, invalid bytes, long white
space, digits, combining marks, and what normalizers trip over.
"""

import random
import unicodedata

# First and last letter of a stretch of 40 scripts, Latin to Etruscan.
SCRIPTS = [
    (0x61, 0x7A), (0xE0, 0xFF), (0x100, 0x17F), (0x250, 0x2AF), (0x3B1, 0x3C9),
    (0x430, 0x44F), (0x561, 0x587), (0x5D0, 0x5EA), (0x621, 0x64A), (0x710, 0x72C),
    (0x780, 0x7A5), (0x7CA, 0x7EA), (0x905, 0x939), (0x985, 0x9B9), (0xA05, 0xA39),
    (0xA85, 0xAB9), (0xB05, 0xB39), (0xB85, 0xBB9), (0xC05, 0xC39), (0xC85, 0xCB9),
    (0xD05, 0xD39), (0xD85, 0xDC6), (0xE01, 0xE2E), (0xE81, 0xEAE), (0xF40, 0xF6C),
    (0x1000, 0x1021), (0x10D0, 0x10F0), (0x1100, 0x11FF), (0x1200, 0x135A),
    (0x13A0, 0x13F4), (0x1401, 0x166C), (0x1681, 0x169A), (0x16A0, 0x16EA),
    (0x1780, 0x17A2), (0x1820, 0x1878), (0x3041, 0x3096), (0x30A1, 0x30FA),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x10300, 0x1031F),
]  # fmt: skip
WORDS = [
    'the', 'of', 'and', "it's", "we'll", "DON'T", "I'm", "they've", 'Running', 'Hello',
    'tokenizer', 'the,quick', 'brown-fox', 'jumps_over', "'tis", "O'Neil", 'e.g.',
    'C++', 'x==y', 'self.value', 'def f(x):', 'https://example.org/a?b=c', 'a@b.org',
]  # fmt: skip
EMOJI = [
    '👩\u200d👩\u200d👧', '🏳\ufe0f\u200d🌈', '🇰🇷🇫🇷', '❤\ufe0f', '👍🏽', '🧑🏿\u200d🚀',
    '1\ufe0f\u20e3', '☃',
]  # fmt: skip
SPELLINGS = [
    '<|endoftext|>', '<s>', '</s>', '<pad>', '<unk>', '<mask>', '[CLS]', '[MASK]',
    '[UNK]', '<0x0A>', '<|im_end|>', '##ing', '\u0120the', '\u2585', '\u2047',
]  # fmt: skip
# Ligatures, letters that lower case or composition changes, what is not seen.
TRAPS = [
    chr(code)
    for code in (
        0xFB01, 0x2177, 0x2460, 0x212B, 0xC5, 0x1C5, 0x130, 0x131, 0xDF, 0x1E9E, 0x3C2,
        0x337F, 0xBD, 0xFDFA, 0x2026, 0xAD, 0x200B, 0x200D, 0x200E, 0x202E, 0xFEFF,
        0xFFFD, 0xFFFE, 0x2028, 0x345, 0x85, 0, 0x7F, 0xE0001, 0x10FFFF, 0x3131, 0x1160,
        0xE33, 0x2581,
    )
]  # fmt: skip
WHITE = ' \t\n\r\v\f\x1c\x85\xa0\u1680\u2003\u202f\u3000'
MARKS = [chr(code) for code in (*range(0x300, 0x330), 0x5B4, 0x64B, 0x93C, 0x20D7)]
DIGITS = '0123456789\u0660\u0661\u096a\u096b\uff10\uff11\xb2\u2083'


def make(count: int, seed: int = 0) -> list[str]:
    """`count` strings of characters, 70 long on average; no lone surrogates."""
    rng = random.Random(seed)
    return [
        ''.join(_part(rng) for _ in range(rng.randrange(1, 12))) for _ in range(count)
    ]


def _part(rng: random.Random) -> str:
    kind = rng.randrange(12)
    gap = rng.choice(['', ' ', ' ', '\n'])
    if kind < 3:
        return rng.choice(WORDS) + gap
    if kind < 5:
        return _word(rng) + gap
    if kind == 5:
        return rng.choice(EMOJI) + chr(rng.randrange(0x1F300, 0x1FAFF))
    if kind == 6:
        return rng.choice(SPELLINGS) + gap
    if kind == 7:
        return rng.choice(TRAPS) * rng.choice([1, 1, 2]) + gap
    if kind == 8:
        return rng.choice(WHITE) * rng.choice([1, 2, 3, 8, 33, 400])
    if kind == 9:
        return ''.join(rng.choices(DIGITS, k=rng.randrange(1, 12))) + rng.choice('.,- ')
    if kind == 10:
        marked = ''.join(c + rng.choice(MARKS) for c in rng.choice(WORDS))
        return unicodedata.normalize(rng.choice(['NFC', 'NFD', 'NFKC']), marked)
    # Bytes that are not UTF-8, as a careless reader decodes them; control characters.
    data = rng.randbytes(rng.randrange(1, 9))
    return data.decode('utf-8', 'replace') + chr(rng.randrange(32))


def _word(rng: random.Random) -> str:
    first, last = rng.choice(SCRIPTS)
    letters = (chr(rng.randint(first, last)) for _ in range(rng.randrange(1, 9)))
    word = ''.join(letters)
    return word.upper() if rng.random() < 0.2 else word

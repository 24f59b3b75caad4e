"""Pages that are hard on filters: near each limit, and edges; equal for equal seeds.

And ours beside datatrove's decisions about them: `ours` tells ours in its words.
"""

from collections.abc import Callable
import hashlib
import random

from gptjax.data import documents, steps
from gptjax.data.filters import table

# Our steps, by the names of filters_oracle.made.
STEPS = {
    'gopher': ('gopher', dict(variant='datatrove')),
    'gopher_repetition': ('gopher_repetition', dict(variant='datatrove')),
    'c4_paper': ('c4_paper', dict(variant='paper')),
    'c4_paper:fineweb': ('c4_paper', dict(variant='fineweb')),
    'fineweb': ('fineweb', {}),
}
# datatrove's reasons for ours.
REASONS = {
    'words_least': 'gopher_short_doc', 'words_most': 'gopher_long_doc',
    'word_length_least': 'gopher_below_avg_threshold',
    'word_length_most': 'gopher_above_avg_threshold',
    'hashes_most': 'gopher_too_many_hashes',
    'ellipses_most': 'gopher_too_many_ellipsis',
    'bullet_lines_most': 'gopher_too_many_bullets',
    'ellipsis_lines_most': 'gopher_too_many_end_ellipsis',
    'alphabetic_least': 'gopher_below_alpha_threshold',
    'stop_words_least': 'gopher_enough_stop_words',
    'characters_least': 'empty', 'paragraphs_most': 'dup_para_frac',
    'paragraph_characters_most': 'dup_para_char_frac', 'lines_most': 'dup_line_frac',
    'line_characters_most': 'dup_line_char_frac',
    **{f'top_{n}_most': f'top_{n}_gram' for n in range(2, 5)},
    **{f'repeated_{n}_most': f'duplicated_{n}_n_grams' for n in range(5, 11)},
    'lorem_ipsum': 'lorem_ipsum', 'curly_bracket': 'curly_bracket',
    'sentences_least': 'too_few_sentences', 'lines_least': 'empty',
    'ended_lines_least': 'line_punct_ratio', 'short_lines_most': 'short_line_ratio',
    'repeated_characters_most': 'char_dup_ratio', 'line_ends_most': 'list_ratio',
}  # fmt: skip

STOP = ['the', 'of', 'and', 'to', 'with', 'that', 'have', 'be', 'a', 'in', 'is', 'it']
WORDS = [
    'river', 'mountain', 'house', 'garden', 'window', 'letter', 'winter', 'summer',
    'kitchen', 'teacher', 'student', 'morning', 'evening', 'history', 'science',
    'paper', 'stone', 'bridge', 'village', 'forest', 'market', 'engine', 'number',
    'question', 'answer', 'picture', 'colour', 'friend', 'brother', 'sister', 'mother',
    'walked', 'found', 'wrote', 'carried', 'followed', 'remembered', 'opened', 'closed',
    'quickly', 'slowly', 'always', 'never', 'under', 'over', 'between', 'through', 'ox',
    "don't", 'well-known', 'U.S.', 'naïve', 'Straße', '東京', 'e.g.', 'Dr.', 'no',
    'where', 'here', 'now', 'nowhere', '3.14', '2024', 'I', 'go', 'on', 'goon',
]  # fmt: skip
ODD = [
    '#',
    '...',
    '\u2026',
    '€',
    '+',
    '•',
    '😀',
    '👩\u200d👧',
    '|',
    '***',
    '“',
    '_',
    '\uff11',
]
ENDS = ['.', '.', '.', '.', '?', '!', '."', '...', '\u2026', '。', '', '', "'", '.[3]']
LINE_ENDS = ['\n'] * 12 + [
    '\n\n',
    '\n\n\n',
    '\r\n',
    '\u2028',
    '\x0b',
    '\x85',
    ' \n',
    '\x1c',
]
TROUBLE = [
    'Please enable JavaScript to read this page.', 'We use cookies on this site.',
    'Read our privacy policy before you go on.', 'You agree to the Terms of Use here.',
    'Lorem ipsum dolor sit amet, consectetur elit.', 'if (x) { return the house; }.',
    'A line with a citation.[12] And more[citation needed].', 'lorem[1] ipsum is here.',
    'Too few.', 'x' * 1001 + ' is a very long word.', '[edit] [1] [2].', '3 likes',
    'He said: "It is so." She left (slowly.) Then? Yes! End of it.',
]  # fmt: skip
EDGES = [
    '', ' ', '\n', '\n\n\n', '\t \n \t', '.', '\u2028', '\x0b\x0c', '\r\n' * 5, 'word',
    'the of and to ' * 40, 'the river ' * 51_000, 'x' * 5000, '😀' * 300, '😀 ' * 300,
    '東京は大きい。' * 60,
    '東京は大きい。\n' * 60, '#' * 200, '... ' * 100, '- item\n' * 60,
    '• item\n\n' * 60,
    'the the the\n' * 4, '{', 'a b c d e f g h i j k l m n o p ' * 10,
    'I am your father.\n' * 4, "'" * 60 + '\n' + '"' * 60, '\x00\x01\x02 the of and.',
    'no where the river ran now here the river ran ' * 6, '. ' * 100, '"\n"\n"\n"\n',
    '\n\n\n\n'.join(['A line of more than thirty characters, and it ends.'] * 1 + [
        f'Line {n} has more than thirty characters, and it ends.' for n in range(9)]),
]  # fmt: skip


def make(count: int, seed: int = 0) -> list[str]:
    """`count` pages: the edges, then generated ones of up to 500 words."""
    rng = random.Random(seed)
    return [*EDGES, *(_page(rng) for _ in range(count))][:count]


def _page(rng: random.Random) -> str:
    kind = rng.randrange(11)
    size = rng.choice([20, 45, 55, 80, 120, 200, 300, 500])
    if kind == 0:  # one number near a limit: words, length of words, symbols
        words = [rng.choice(STOP + WORDS) for _ in range(rng.randrange(44, 60))]
        return ' '.join(words)
    if kind == 1 and rng.random() < 0.4:
        letters = rng.choice([2, 3, 9, 10, 11])
        words = [
            'abcdefghijklmnop'[: letters + rng.randrange(-1, 2)] for _ in range(60)
        ]
        return ' '.join(words + STOP[: rng.randrange(6)])
    lines = _lines(rng, size)
    if kind == 2:
        odd = rng.choice([*ODD, '#', '#', '#'])
        share = rng.choice([0.05, 0.09, 0.1, 0.11, 0.3])
        lines = [
            ' '.join(w + f' {odd}' * (rng.random() < share) for w in line.split(' '))
            for line in lines
        ]
    if kind == 3:
        mark, share = rng.choice(['• ', '- ', '* ', '  -']), rng.choice([0.8, 0.9, 1])
        lines = [mark * (rng.random() < share) + line for line in lines]
    if kind == 4:
        share = rng.choice([0.2, 0.3, 0.4])
        lines = [
            line + rng.choice(ENDS[7:9]) * (rng.random() < share) for line in lines
        ]
    if kind in (5, 6):  # repeated lines, paragraphs and stretches
        lines += rng.choices(lines, k=int(len(lines) * rng.choice([0.05, 0.2, 0.4])))
        rng.shuffle(lines)
    if kind == 10:  # good lines: paragraphs that repeat, many line ends
        lines = [f'The {rng.choice(WORDS)} of {line.strip()} and so.' for line in lines]
        gap = '\n' * rng.randrange(1, 6)
        again = lines[: max(1, int(len(lines) * rng.choice([0, 0, 0.1, 0.3])))]
        return gap.join(lines + again * rng.randrange(2))
    text = _joined(rng, lines)
    if kind in (7, 8):  # a stretch of 2 to 60 words stands twice or more often
        words = text.split(' ')
        size, times = rng.randrange(2, 60), rng.choice([1, 1, 1, 2, 5])
        if kind == 8:  # of all words, a share near the limits of 0.10 to 0.15
            size, times = int(len(words) * rng.uniform(0.08, 0.17)), 1
        part = words[:size]
        for _ in range(times):
            place = rng.randrange(len(words) + 1)
            words[place:place] = part
        text = ' '.join(words)
    return text


def _lines(rng: random.Random, size: int) -> list[str]:
    lines, mean = [], rng.choice([2, 4, 6, 10, 20, 60])
    trouble = rng.choice([0, 0, 0.03, 0.2])
    while size > 0:
        if rng.random() < trouble:
            lines.append(rng.choice(TROUBLE))
        length = min(max(1, round(rng.expovariate(1 / mean))), size)
        size -= length
        words = [rng.choice(rng.choice((STOP, WORDS, WORDS))) for _ in range(length)]
        lines.append(' '.join(words).capitalize() + rng.choice(ENDS))
    return lines


def _joined(rng: random.Random, lines: list[str]) -> str:
    plain = rng.random() < 0.6
    gaps = ['\n' if plain else rng.choice(LINE_ENDS) for _ in lines]
    return ''.join(line + gap for line, gap in zip(lines, gaps, strict=True))


def ours() -> dict[str, Callable[[str], str]]:
    """Our steps as functions of text: the reason in datatrove's words, or '', or after
    a line end the text that is left.
    """
    return {
        name: _telling(table.STEPS[step](**options))
        for name, (step, options) in STEPS.items()
    }


def _telling(step: steps.Step) -> Callable[[str], str]:
    def tell(text: str) -> str:
        result = step(documents.Document('id', 'web/page', 'MIT', text=text))
        if isinstance(result, documents.Reject):
            return REASONS[result.reason]
        return '' if result.text == text else f'\n{result.text}'

    return tell


def short(result: str) -> str:
    """A decision, with a digest in the place of a text."""
    if result[:1] != '\n':
        return result
    return '\n' + hashlib.sha256(result.encode()).hexdigest()[:12]

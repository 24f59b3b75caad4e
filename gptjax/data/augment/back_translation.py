"""Paraphrases by translation into another language and back.

Sennrich, Haddow and Birch, "Improving neural machine translation models with
monolingual data", 2016; as augmentation: Yu et al., "QANet", 2018, section 3.
"""

from collections.abc import Iterable, Iterator, Sequence
import itertools

from gptjax.data import documents
from gptjax.data.augment import parts
from gptjax.data.augment.endpoint import Endpoint


def back_translation(
    found: Iterable[documents.Document],
    ask: Endpoint,
    *,
    seed: int,
    language: str,
    through: Sequence[str],
) -> Iterator[documents.Document]:
    """A new document of each for each language of `through`.

    language: of the documents, by name ('English'). Documents whose translation was
    refused, is empty, or comes back as it was are left out.
    """
    source = iter(found)
    while batch := list(itertools.islice(source, 4 * ask.at_once)):
        pairs = [(document, other) for document in batch for other in through]
        texts = [(text, other) for d, other in pairs for text in parts.inputs(d)]
        seeds = [seed] * len(texts)
        there = ask.ask([_prompt(t, language, other) for t, other in texts], seeds)
        back = ask.ask(
            [_prompt(t or '', other, language)
             for t, (_, other) in zip(there, texts, strict=True)],
            seeds,
        )  # fmt: skip
        answers = iter(zip(there, back, strict=True))
        for document, other in pairs:
            old = parts.inputs(document)
            new = [
                b.strip() if a and b else ''
                for a, b in itertools.islice(answers, len(old))
            ]
            if all(new) and new != old:
                by = f'{ask.model}, through {other}'
                number = list(through).index(other)
                yield parts.remade(document, new, 'back_translation', number, by)


def _prompt(text: str, before: str, after: str) -> list[dict[str, str]]:
    return [
        {
            'role': 'user',
            'content': f'Translate this text from {before} into {after}. Answer with '
            f'nothing but the translation.\n\n{text}',
        }
    ]

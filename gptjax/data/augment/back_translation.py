"""Paraphrases by translation into another language and back.

Sennrich, Haddow and Birch, "Improving neural machine translation models with
monolingual data", 2016; as augmentation: Yu et al., "QANet", 2018, section 3.
"""

from collections.abc import Iterable, Iterator, Sequence
import itertools

from gptjax import command
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
    if isinstance(through, str) or not through:
        raise command.UserError(
            f"method.through is {through!r}; name languages, such as ('French',)."
        )
    source = iter(found)
    while batch := list(itertools.islice(source, 4 * ask.at_once)):
        pairs = [(document, other) for document in batch for other in through]
        texts = [(text, other) for d, other in pairs for text in parts.inputs(d)]
        there = _translated(ask, seed, [(t, language, other) for t, other in texts])
        back = _translated(
            ask,
            seed,
            [(t, other, language) for t, (_, other) in zip(there, texts, strict=True)],
        )
        answers = iter(back)
        for document, other in pairs:
            old = parts.inputs(document)
            new = list(itertools.islice(answers, len(old)))
            if all(new) and new != old:
                by = f'{ask.model}, through {other}'
                number = list(through).index(other)
                yield parts.remade(document, new, 'back_translation', number, by)


def _translated(
    ask: Endpoint, seed: int, wanted: Sequence[tuple[str, str, str]]
) -> list[str]:
    """Each text, from one language, in another; '' where there is nothing of it."""
    prompts = [
        f'Translate this text from {before} into {after}. Answer with nothing but the '
        f'translation.\n\n{text}'
        for text, before, after in wanted
        if text
    ]
    answers = iter(ask.ask(prompts, [seed] * len(prompts)))
    return [(next(answers) or '').strip() if text else '' for text, _, _ in wanted]

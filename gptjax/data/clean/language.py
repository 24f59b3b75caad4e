"""The language of a document, by py3langid's naive Bayes over byte n-grams."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from gptjax import command
from gptjax.data import documents, extras, steps


def language(
    *, keep: Sequence[str] | None, least: float, characters: int
) -> steps.Step:
    """Names the language, and rejects others as 'language' and doubt as 'unsure'.

    keep: ISO 639 codes as the identifier gives them (its 140 languages; 'zxx' is no
        language at all), or None for all.
    least: probability, 0 to 1, of the likeliest language, tempered by length so that
        it stays comparable.
    characters: how much of the text is looked at, from its start: the identifier takes
        a second for 4 MB, and a page is known by its first thousands.
    Signal: 'language', that probability; the code is stored on the document.
    Raises UserError for a code that the identifier does not know.
    """
    if not 0 <= least <= 1 or characters < 1:
        raise command.UserError(
            f'language has least={least} and characters={characters}; least needs to '
            'be in 0..1, characters >= 1.'
        )
    identifier = _identifier()
    for code in keep or ():
        if code not in identifier.labels:
            raise command.UserError(
                f'language.keep has {code!r}, which is not among the languages that '
                f'are identified: {", ".join(sorted(identifier.labels))}.'
            )

    def step(document: documents.Document) -> steps.Result:
        code, probability = identifier.classify(document.whole[:characters])
        if keep is not None and code not in keep:
            return documents.Reject('language', code)
        if probability < least:
            return documents.Reject('unsure', round(probability, 4))
        told = {**document.signals, 'language': round(probability, 4)}
        return dataclasses.replace(document, language=code, signals=told)

    return step


@functools.cache
def _identifier() -> Any:
    """Half a second, and once in a process."""
    module = extras.need('py3langid.langid', 'data')
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)

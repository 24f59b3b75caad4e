"""Steps that replace, tag or reject personal data, and count what they found."""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses

from gptjax import command
from gptjax.data import documents, extras, steps
from gptjax.data.privacy import find

_ACTIONS = ('replace', 'tag', 'drop')


def privacy(*, kinds: Sequence[str], action: str, most: int | None) -> steps.Step:
    """Finds personal data in every text of a document.

    kinds: of find.KINDS; 'national' and 'ip' stand for several.
    action: 'replace' by a surrogate of the kind, 'tag' as '<KIND>', or 'drop' the
        document: rejected by the first kind, with how often it occurs.
    most: a document with more than so many is rejected as 'many' (that is a list of
        people); None keeps it.
    Signals: 'privacy.KIND', how many were found, where there are any.
    Raises UserError for an unknown kind or action.
    """
    wanted = find.kinds(kinds)
    return _step(lambda text: find.find(text, wanted), action, most)


def names(*, model: str, language: str, least: float, action: str) -> steps.Step:
    """Finds names of people through presidio (the extra `names`).

    model: an installed model of spaCy, 'en_core_web_sm'; nothing is downloaded.
    language: ISO 639-1, of the model. least: presidio's score, 0 to 1. action: as
    `privacy`. Signal: 'privacy.person'.
    Raises UserError where presidio or the model is not installed.
    """
    analyzer = extras.need('presidio_analyzer', 'names')
    engines = extras.need('presidio_analyzer.nlp_engine', 'names')
    if not extras.need('spacy', 'names').util.is_package(model):
        raise command.UserError(
            f'names.model is {model!r}, which is not installed; install a model of '
            f'spaCy, or name another: python -m spacy download {model}.'
        )
    configuration = {
        'nlp_engine_name': 'spacy',
        'models': [{'lang_code': language, 'model_name': model}],
    }
    engine = engines.NlpEngineProvider(nlp_configuration=configuration).create_engine()
    made = analyzer.AnalyzerEngine(nlp_engine=engine, supported_languages=[language])

    def people(text: str) -> list[find.Span]:
        results = made.analyze(
            text=text, language=language, entities=['PERSON'], score_threshold=least
        )
        spans: list[find.Span] = []
        for result in sorted(results, key=lambda one: (one.start, -one.end)):
            if not spans or result.start >= spans[-1].end:
                spans.append(find.Span(result.start, result.end, 'person'))
        return spans

    return _step(people, action, None)


def _step(
    look: Callable[[str], list[find.Span]], action: str, most: int | None
) -> steps.Step:
    if action not in _ACTIONS:
        raise command.UserError(
            f'action is {action!r}; it needs to be one of {", ".join(_ACTIONS)}.'
        )

    def step(document: documents.Document) -> steps.Result:
        counts: Counter[str] = Counter()

        def change(text: str) -> str:
            spans = look(text)
            if not spans:
                return text
            counts.update(span.kind for span in spans)
            return find.hide(text, spans, action == 'tag')

        changed = document.changed(change)
        if not counts:
            return document
        if action == 'drop':
            kind = next(iter(counts))
            return documents.Reject(kind, float(counts[kind]))
        if most is not None and counts.total() > most:
            return documents.Reject('many', float(counts.total()))
        told = {f'privacy.{kind}': float(n) for kind, n in sorted(counts.items())}
        return dataclasses.replace(changed, signals={**document.signals, **told})

    return step

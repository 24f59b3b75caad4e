"""What a dataset may hold: steps that find licences, and that keep to refusals."""

from collections.abc import Collection
import dataclasses

from gptjax import command
from gptjax.data import documents, steps
from gptjax.data.origin import detect, optout, spdx


def licence() -> steps.Step:
    """Finds the licence of documents that have none, in their HTML or their text.

    Before HTML is extracted it finds more: the links of footers are lost after it.
    """

    def step(document: documents.Document) -> steps.Result:
        if document.licence != spdx.UNKNOWN:
            return document
        of = detect.from_html if document.media == 'text/html' else detect.from_text
        found = of(document.whole)
        if found is None:
            return document
        return dataclasses.replace(document, licence=found[0], evidence=found[1])

    return step


def opt_out(*, unknown: str) -> steps.Step:
    """Rejects documents that ask to be left out of training; the value says how.

    unknown: 'keep' or 'reject' those of which nobody looked. HTML is looked at here.
    """
    if unknown not in ('keep', 'reject'):
        raise command.UserError(
            f"opt_out.unknown is {unknown!r}; it needs to be 'keep' or 'reject'."
        )
    kept = ('none', 'unknown') if unknown == 'keep' else ('none',)

    def step(document: documents.Document) -> steps.Result:
        asked = document.opt_out
        if document.media == 'text/html' and asked in kept:
            asked = optout.from_html(document.whole) or asked
        return document if asked in kept else documents.Reject('opt_out', asked)

    return step


def known(licences: Collection[str]) -> frozenset[str]:
    """The licences of a config as SPDX identifiers; UserError for one that is none."""
    for one in licences:
        written = spdx.parse(one)
        if written == spdx.UNKNOWN or ' OR ' in written or ' AND ' in written:
            raise command.UserError(
                f'licences has {one!r}, which is no SPDX identifier that is known; '
                f"name one licence each as spdx.org/licenses, or 'LicenseRef-NAME'."
            )
    return frozenset(map(spdx.parse, licences))


def check(document: documents.Document, allowed: Collection[str]) -> steps.Result:
    """The document, its licence in SPDX's words, if `allowed` (see `known`) has it.

    Otherwise Reject('licence', what it has): 'unknown' is never allowed.
    """
    if not spdx.allowed(document.licence, allowed):
        return documents.Reject('licence', document.licence)
    written = spdx.parse(document.licence)
    if written == document.licence:
        return document
    return dataclasses.replace(document, licence=written)

"""Filters against datatrove, live: decisions, first reasons and texts that are left."""

from golden import filters_pages
import pytest

pytest.importorskip('datatrove')

from golden import filters_oracle

from gptjax.data.filters import page

COUNT, SEED = 5000, 1


@pytest.mark.parametrize('name', filters_pages.STEPS)
def test_decisions_are_those_of_datatrove(name, measured):
    ours, theirs = filters_pages.ours()[name], filters_oracle.made()[name]
    pages = filters_pages.make(COUNT, SEED)
    different = [x for x in pages if ours(x) != filters_oracle.tell(theirs, x)]
    measured(
        f'{name}: {len(different)} of {COUNT} pages differ', filters=len(different)
    )
    assert not different


def test_punctuation_is_that_of_datatrove():
    from datatrove.utils import text

    assert page.TERMINAL == text.TERMINAL_PUNCTUATION
    assert page.PUNCTUATION == text.PUNCTUATION_SET

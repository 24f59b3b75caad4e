"""From pages to text by both extractors, and pages that are made to harm them."""

import time

import pytest
import raw_files

from gptjax import command
from gptjax.data import documents
from gptjax.data.read import extract

BOTH = pytest.mark.parametrize('by', ['trafilatura', 'resiliparse'])


def page(html, **fields):
    known = {'licence': 'unknown', 'media': 'text/html', **fields}
    return documents.Document('id', 'web/site.test', text=html, **known)


@BOTH
def test_the_article_is_kept_and_the_rest_is_not(by):
    made = extract.extract(by=by)(page(raw_files.PAGE))
    lines = [line for line in made.text.split('\n') if line]
    paragraphs = [line for line in lines if line.startswith('Paragraph')]
    assert len(paragraphs) == 5
    assert paragraphs[4].endswith('in every season.')
    assert 'The river' in lines
    assert 'Home' not in made.text
    assert '<' not in made.text
    assert made.media == 'text/plain'
    assert (made.id, made.source) == ('id', 'web/site.test')


@BOTH
def test_a_page_gives_the_same_text_whatever_came_before(by):
    step = extract.extract(by=by)
    first = step(page(raw_files.PAGE))
    for _ in range(3):
        assert step(page(raw_files.PAGE)) == first


@BOTH
def test_what_is_no_page_passes(by):
    step = extract.extract(by=by)
    plain = page('<p>Plain.</p>', media='text/plain')
    assert step(plain) is plain
    messages = [{'role': 'assistant', 'content': 'Yes.'}]
    talk = documents.Document('id', 'a/b', 'MIT', messages=messages)
    assert step(talk) is talk


@BOTH
def test_pages_without_text_are_rejected(by):
    step = extract.extract(by=by)
    for html in ('<html><body></body></html>', '<p> </p>', '<script>x()</script>'):
        assert step(page(html)) == documents.Reject('no text')


def test_licence_and_opt_out_of_the_page_are_taken():
    step = extract.extract(by='resiliparse')
    link = '<a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC</a>'
    meta = '<head><meta name="robots" content="noai">'
    html = raw_files.PAGE.replace('Imprint', link).replace('<head>', meta)
    made = step(page(html))
    assert made.licence == 'CC-BY-4.0'
    assert made.evidence
    assert made.opt_out == 'noai'
    known = step(page(html, licence='MIT', evidence='said'))
    assert (known.licence, known.evidence) == ('MIT', 'said')
    plain = step(page(raw_files.PAGE, opt_out='tdmrep'))
    assert (plain.licence, plain.opt_out) == ('unknown', 'tdmrep')


BOMBS = {
    'nesting': '<div>' * 50_000 + 'text',
    'nesting of what formats': '<font color=a>' * 50_000 + 'text',
    'too many tags': '<p>a' * 51_000,
    'too large': '<p>' + 'a' * (9 << 20),
    'an attribute': f'<p title="{"a" * (1 << 20)}">Text that stands here.</p>',
    'no end of a tag': '<p ' + 'a ' * (1 << 18),
    'comments': '<!--' * 50_000,
    'entities': '&amp' * 100_000,
    'XML': '<?xml version="1.0" encoding="utf-8"?><html><p>Text.</p></html>',
}


@BOTH
@pytest.mark.parametrize('name', sorted(BOMBS))
def test_hostile_pages_end_soon(by, name):
    """The first took resiliparse 5 minutes, with 100,000 elements."""
    step = extract.extract(by=by)
    start = time.process_time()
    made = step(page(BOMBS[name]))
    assert time.process_time() - start < 20
    if isinstance(made, documents.Reject) and made.reason != 'no text':
        assert made.reason == name.partition(' of ')[0]


def test_an_error_of_the_parser_is_a_rejection(monkeypatch):
    import trafilatura

    def fail(*args, **kwargs):
        raise RecursionError('too deep')

    monkeypatch.setattr(trafilatura, 'extract', fail)
    made = extract.extract(by='trafilatura')(page(raw_files.PAGE))
    assert made == documents.Reject('error', 'RecursionError: too deep')


def test_an_unknown_extractor_is_refused():
    with pytest.raises(command.UserError, match=r"unknown extract\.by 'trafilature'"):
        extract.extract(by='trafilature')

"""The chat page: one small file that asks nobody else and runs nothing but itself."""

import base64
import hashlib
from html import parser
import re

import httpx
import pytest


@pytest.fixture(scope='module')
def response(tiny_server):
    return httpx.get(tiny_server.url + '/')


class Outline(parser.HTMLParser):
    """Every tag with its attributes, and the text of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.inline, self._inside = [], {'script': [], 'style': []}, None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag if tag in self.inline else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.inline[self._inside].append(data)


def test_the_policy_lets_only_the_page_itself_run(response):
    policy = dict(
        part.split(' ', 1)
        for part in response.headers['content-security-policy'].split('; ')
    )
    assert policy['default-src'] == "'none'"
    assert policy['connect-src'] == "'self'"
    assert 'unsafe' not in str(policy)
    assert not re.search(r'[*]|https?:', str(policy))
    for tag in ('script', 'style'):
        [text] = Outline(response.text).inline[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f'{tag}-src'] == f"'sha256-{digest}'"
    assert response.headers['x-content-type-options'] == 'nosniff'


def test_it_is_small_and_asks_nobody_else(response):
    assert response.status_code == 200
    assert response.headers['content-type'].startswith('text/html')
    assert len(response.content) <= 40_000
    assert not re.search(r'https?:|//[a-z]|@import|url\(', _without_comments(response))
    for tag, attributes in Outline(response.text).tags:
        assert 'src' not in attributes
        if 'href' in attributes:
            assert attributes['href'] == 'data:,', tag


def _without_comments(response):
    return re.sub(r'(^|\s)//\s.*', '', response.text)


def test_what_a_model_says_can_only_become_text(response):
    markup = 'innerHTML|outerHTML|insertAdjacentHTML|document.write|eval|new Function'
    assert not re.search(markup, response.text)
    for _, attributes in Outline(response.text).tags:
        assert not any(name.startswith('on') or name == 'style' for name in attributes)


def test_every_control_has_a_label(response):
    tags = Outline(response.text).tags
    labelled = {attributes.get('for') for tag, attributes in tags if tag == 'label'}
    for tag, attributes in tags:
        if tag in ('input', 'select', 'textarea'):
            assert attributes['id'] in labelled
    assert ('html', {'lang': 'en'}) in tags

"""What one host asks of robots: robots.txt, ai.txt and tdmrep.json, read once."""

from collections.abc import Callable, Sequence
import json
import re
from typing import Any
from urllib import parse

from gptjax.data import extras
from gptjax.data.origin import optout, web

_MOST = 500 * 1024  # bytes of robots.txt that count (RFC 9309, 2.5)
_SIGNAL = re.compile(r'^\s*content-(?:usage|signal)\s*:(.*)$', re.I | re.M)
_DENIED = re.compile(r'^\s*training\s*:\s*(?:deny|no|disallow)', re.I | re.M)

# The answer after redirects, with that many bytes of it; it keeps to delays.
Ask = Callable[[str, int], web.Answer]


class Site:
    """The rules of one host, for these product tokens of robots.

    robots.txt by RFC 9309: absent (4xx) allows everything; an error of the server, too
    many redirects or no answer forbids everything, as do 429 and what is not text.
    ai.txt and tdmrep.json count where they can be read.
    """

    def __init__(self, origin: str, agents: Sequence[str], ask: Ask) -> None:
        self._parse = extras.need('protego', 'data').Protego.parse
        self._agents = agents
        self.robots: Any = None  # None forbids everything, for this reason:
        self._why = ''
        text = ''
        try:
            answer = ask(f'{origin}/robots.txt', _MOST)
            if 200 <= answer.status < 300:
                text = answer.body.decode('utf-8-sig', 'replace')
            if 200 <= answer.status < 500 and answer.status != 429:
                self.robots = self._parse(text)
            self._why = f'robots.txt: status {answer.status}'
        except web.Refused as why:
            self._why = f'robots.txt: {why}'
        self._usage = any(optout.usage(one) for one in _SIGNAL.findall(text))
        self._ai = self._tdm = ''
        if self.robots is not None:
            self._ai = _text(ask, f'{origin}/ai.txt')
            self._tdm = _text(ask, f'{origin}/.well-known/tdmrep.json')

    @property
    def delay(self) -> float:
        """Seconds between two requests that robots.txt asks of any of the agents."""
        asked = [0.0]
        for agent in self._agents if self.robots is not None else ():
            asked.append(self.robots.crawl_delay(agent) or 0.0)
            rate = self.robots.request_rate(agent)
            asked.append(rate.seconds / rate.requests if rate else 0.0)
        return max(asked)

    def refusal(self, url: str) -> str | None:
        """What forbids a page: 'robots.txt', 'content-usage', 'ai.txt', 'tdmrep'.

        'robots.txt: WHY' where it could not be read, which may be better another time.
        """
        if self.robots is None:
            return self._why
        if not all(self.robots.can_fetch(url, agent) for agent in self._agents):
            return 'robots.txt'
        if self._usage:
            return 'content-usage'
        if not self._ai_allows(url):
            return 'ai.txt'
        return 'tdmrep' if self._reserved(url) else None

    def _ai_allows(self, url: str) -> bool:
        """Spawning's ai.txt: robots.txt with kinds of files, 'Disallow: *.html'."""
        if _DENIED.search(self._ai):
            return False
        rules = self._parse(self._ai)
        path = parse.urlsplit(url).path
        named = '.' in path.rpartition('/')[2]
        page = web.origin(url) + path.rstrip('/') + ('' if named else '/index.html')
        return all(rules.can_fetch(u, a) for u in (url, page) for a in self._agents)

    def _reserved(self, url: str) -> bool:
        """The first rule of tdmrep.json that matches decides (TDMRep, section 6)."""
        try:
            rules = json.loads(self._tdm) if self._tdm else []
        except (ValueError, RecursionError):
            return False
        for rule in rules if isinstance(rules, list) else [rules]:
            if isinstance(rule, dict) and isinstance(rule.get('location'), str):
                pattern = ' '.join(rule['location'].split())
                robots = self._parse(f'User-agent: *\nDisallow: {pattern}')
                if not robots.can_fetch(url, '*'):
                    return str(rule.get('tdm-reservation')) in ('1', 'True')
        return False


def _text(ask: Ask, url: str) -> str:
    try:
        answer = ask(url, _MOST)
    except web.Refused:
        return ''
    text = answer.body.decode('utf-8-sig', 'replace')
    return text if answer.status == 200 and not text.lstrip().startswith('<') else ''

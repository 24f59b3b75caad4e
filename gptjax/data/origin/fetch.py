"""The polite fetcher: a list of addresses and sitemaps becomes a WARC file.

A page is asked for only if robots.txt, ai.txt and tdmrep.json of its host allow it, for
our name and for those of the crawlers whose refusal counts as ours; it is written only
if neither its headers nor its HTML ask to be left out of training. A reservation at any
of these levels counts, also where TDMRep would let a later one take it back.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
import contextlib
from dataclasses import dataclass, field
import datetime
import email.utils
import heapq
import html
import math
from pathlib import Path
import re
import time
from typing import Any
import zlib

from gptjax import command
from gptjax.data import progress
from gptjax.data.origin import archive, optout, site, web

_HOPS = 5  # redirects that are followed (RFC 9309, 2.3.1.2)
_TRIES = 3  # requests of a page that answers 429 or 503
_LONGEST = 600.0  # seconds that a host may ask to wait; one that wants more is left
_SITEMAP = 50 * 2**20  # bytes of a sitemap, unpacked (sitemaps.org)
_CONDITIONS = {'etag': 'If-None-Match', 'last-modified': 'If-Modified-Since'}
_LOC = re.compile(r'<(?:\w+:)?loc\s*>\s*(?:<!\[CDATA\[)?\s*([^<\]\s]{1,2048})')
# Reasons that hold for the next run too, so that they are written down.
_LASTING = ('robots.txt', 'content-usage', 'ai.txt', 'tdmrep', 'noai', 'size',
            'redirects', 'status 404', 'status 410')  # fmt: skip


def fetch(
    *,
    urls: str,
    agent: str,
    respect: Sequence[str],
    delay: float,
    timeout: float,
    seconds: float,
    most_bytes: int,
    most_urls: int,
    private: bool,
    previous: str | None,
    output: Path | str,
    clock: Any = time,
) -> Counter[str]:
    """Fetches what a file of addresses names into a WARC file; the count by outcome.

    urls: a file with an address a line; 'sitemap: ADDRESS' stands for all pages of a
    sitemap, or of an index of sitemaps, on its host. '#' begins a comment.
    agent: 'name/version (+address or mail)': who asks, and how to complain.
    respect: names of other crawlers; what robots.txt forbids one of them is not asked.
    delay: least seconds between two requests to a host; robots.txt may ask for more.
    Its robots.txt, ai.txt and tdmrep.json are asked for at once, before.
    timeout, seconds, most_bytes, private: see `web.Client`.
    most_urls: addresses that are tried, and sitemaps.
    previous: a WARC file of an earlier run: what did not change is taken from it.
    clock: monotonic(), sleep() and time(), as the module of that name has them.

    What was killed goes on where it was; addresses that the output already holds are
    not asked again. Raises UserError for wrong options.
    """
    token = re.match(r'[^\s/()]+', agent)
    if token is None or not re.search(r'\(.*(?:@|https?://).*\)', agent):
        raise command.UserError(
            f'agent is {agent!r}; say who asks and where to complain: '
            "--config.agent='name/1.0 (+https://example.org/bot)'."
        )
    if delay < 0 or min(timeout, seconds, most_bytes, most_urls) <= 0:
        raise command.UserError(
            'delay needs to be >= 0; timeout, seconds, most_bytes, most_urls > 0.'
        )
    if not Path(urls).is_file():
        raise command.UserError(f'urls is {urls!r}; set it to a file of addresses.')
    earlier = None if previous is None else Path(previous)
    if earlier and not (earlier.is_file() and earlier.suffix == '.gz'):
        raise command.UserError(f'previous is {previous!r}; set it to a .warc.gz file.')
    client = web.Client(agent, timeout, seconds, most_bytes, private)
    out = archive.Archive(Path(output))
    try:
        fetcher = Fetcher(client, [token[0], *respect], delay, clock, out, earlier)
        fetcher.run(Path(urls), most_urls)
        out.finish()
    finally:
        out.close()
    for reason, count in sorted(fetcher.counts.items()):
        print(f'{count:>12,}  {reason}')
    return fetcher.counts


@dataclass
class Fetcher:
    """One run: what each host asks for, and when it may be asked again."""

    client: web.Client
    agents: Sequence[str]
    delay: float
    clock: Any
    out: archive.Archive
    previous: Path | None
    counts: Counter[str] = field(default_factory=Counter)
    _sites: dict[str, site.Site] = field(default_factory=dict)
    _ready: dict[str, float] = field(default_factory=dict)  # when, by host
    _tries: Counter[str] = field(default_factory=Counter)
    _maps: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        earlier = archive.members(self.previous) if self.previous else ()
        self._earlier = {m.asked: m for m in earlier if m.outcome == 'written'}

    def run(self, file: Path, most_urls: int) -> None:
        """Fetches the addresses of a file, host by host as each may be asked."""
        queues: dict[str, deque[str]] = {}
        seen: set[str] = set()
        for url in self._listed(file, most_urls):
            if url not in seen and len(seen) == most_urls:
                self.counts['stopped at most_urls'] += 1
                break
            if url not in seen and url in self.out.done:
                self.counts['already there'] += 1
            elif url not in seen:
                queues.setdefault(web.host(url), deque()).append(url)
            seen.add(url)
        with progress.stage('fetching', sum(map(len, queues.values()))) as advance:
            heap = [(self._ready.get(host, 0.0), host) for host in queues]
            heapq.heapify(heap)
            while heap:
                ready, host = heapq.heappop(heap)
                if ready >= self._ready.get(host, 0.0):  # not put off since
                    url = queues[host][0]
                    outcome = self._page(url)
                    if outcome is not None:
                        queues[host].popleft()
                        self.counts[outcome] += 1
                        advance(1)
                if queues[host]:
                    heapq.heappush(heap, (self._ready.get(host, 0.0), host))

    def _listed(self, file: Path, most_urls: int) -> Iterator[str]:
        with file.open(encoding='utf-8', errors='replace') as lines:
            for line in lines:
                text = re.sub(r'(^|\s)#.*', '', line).strip()
                sitemap = re.match(r'sitemap:\s*', text, re.I)
                url = web.normal(text[sitemap.end() :] if sitemap else text)
                if url is None:
                    self.counts['not an address'] += bool(text)
                elif sitemap:
                    yield from self._sitemap(url, 2, most_urls)
                else:
                    yield url

    def _sitemap(self, url: str, depth: int, most: int) -> Iterator[str]:
        """The pages of a sitemap, or of the sitemaps of an index, on its own host."""
        try:
            if depth == 0:
                raise web.Refused('too deep')
            if url in self._maps or len(self._maps) == most:
                raise web.Refused('again' if url in self._maps else 'too many')
            self._maps.add(url)
            answer = self._follow(url, check=True)
            if answer.status != 200:
                raise web.Refused(f'status {answer.status}')
            text = _unpacked(answer.body).decode('utf-8', 'replace')
        except web.Refused as why:
            self.counts[f'sitemap: {why}'] += 1
            return
        index, xml = '<sitemapindex' in text[:2000], '<' in text[:2000]
        for one in _LOC.findall(text) if xml else text.split():
            inner = web.normal(html.unescape(one))
            if inner is None or web.host(inner) != web.host(url):
                self.counts['sitemap: address of another host'] += 1
            elif index:
                yield from self._sitemap(inner, depth - 1, most)
            else:
                yield inner

    def _site(self, url: str) -> site.Site:
        origin = web.origin(url)
        if origin not in self._sites:
            self._sites[origin] = site.Site(origin, self.agents, self._follow)
            self._rest(url)
        return self._sites[origin]

    def _rest(self, url: str, wait: float = 0.0) -> None:
        """Leaves a host alone from now on, for `wait` seconds or as it asks."""
        known, host = self._sites.get(web.origin(url)), web.host(url)
        wait = max(wait, self.delay, known.delay if known else 0.0)
        until = self.clock.monotonic() + (wait if wait <= _LONGEST else math.inf)
        self._ready[host] = max(self._ready.get(host, 0.0), until)

    def _ask(
        self, url: str, headers: Mapping[str, str], first: int | None
    ) -> web.Answer:
        """One request, when its host may be asked; rules of hosts come at once."""
        wait = self._ready.get(web.host(url), 0.0) - self.clock.monotonic()
        if wait == math.inf:
            raise web.Refused('host asks to wait')
        if wait > 0 and first is None:
            self.clock.sleep(wait)
        try:
            return self.client.get(url, headers, first)
        finally:
            self._rest(url)

    def _follow(
        self,
        url: str,
        first: int | None = None,
        *,
        check: bool = False,
        headers: Mapping[str, str] = {},
    ) -> web.Answer:
        """The answer after redirects; with `check`, the host of each allows it."""
        for _ in range(_HOPS + 1):
            refusal = self._site(url).refusal(url) if check else None
            if refusal is not None:
                raise web.Refused(refusal)
            answer = self._ask(url, headers, first)
            if answer.status not in web.REDIRECTS:
                return answer
            place = answer.header('location')
            target = web.normal(place, url) if place else None
            if target is None:
                raise web.Refused('redirects')
            url, headers = target, {}
        raise web.Refused('redirects')

    def _page(self, url: str) -> str | None:
        """Fetches and writes one page: what came of it, None to try again later."""
        try:
            if web.origin(url) not in self._sites:
                self._site(url)
                return None  # others may be asked while this host is left alone
            return self._fetched(url)
        except web.Refused as why:
            reason = str(why)
        if reason in _LASTING:
            self.out.add(url, self._now(), {'outcome': reason}, reason=reason)
        return reason

    def _fetched(self, url: str) -> str | None:
        earlier = self._earlier.get(url)
        http = earlier.http if earlier else {}
        headers = {new: http[old] for old, new in _CONDITIONS.items() if old in http}
        answer = self._follow(url, check=True, headers=headers)
        if answer.status in (429, 503):
            return self._later(url, answer)
        names = {name.lower() for name, _ in answer.headers}
        asked = optout.from_headers({name: answer.header(name) for name in names})
        kind = answer.header('content-type').lower() or 'html'
        if asked is None and answer.status == 200 and ('html' in kind or 'xml' in kind):
            asked = optout.from_html(_text(answer))
        if asked is not None:
            raise web.Refused(asked)
        told = {'robots.txt': f'allows {", ".join(self.agents)}', 'opt-out': 'none'}
        if answer.status == 304 and earlier and headers and self.previous:
            with self.previous.open('rb') as file:
                file.seek(earlier.start)
                raw = file.read(earlier.end - earlier.start)
            told['not-modified'] = self._now()
            self.out.add(url, self._now(), told, raw=raw)
            return 'not modified'
        if answer.status != 200:
            raise web.Refused(f'status {answer.status}')
        self.out.add(url, self._now(), told, answer=answer)
        return 'written'

    def _later(self, url: str, answer: web.Answer) -> str | None:
        """Waits as Retry-After says, or twice as long each time."""
        self._tries[url] += 1
        wait = max(self.delay, 1.0) * 2 ** self._tries[url]
        asked = answer.header('retry-after').strip()
        date = email.utils.parsedate_tz(asked)
        if asked.isdecimal():
            wait = float(asked)
        elif date is not None:
            with contextlib.suppress(ValueError, OverflowError):  # a year of 9 digits
                wait = email.utils.mktime_tz(date) - self.clock.time()
        self._rest(answer.url, wait)
        last = wait > _LONGEST or self._tries[url] >= _TRIES
        return f'status {answer.status}' if last else None

    def _now(self) -> str:
        moment = datetime.datetime.fromtimestamp(self.clock.time(), datetime.UTC)
        return moment.strftime('%Y-%m-%dT%H:%M:%SZ')


def _text(answer: web.Answer) -> str:
    """HTML in which ASCII can be read: also that of UTF-16."""
    coding = answer.header('content-encoding').lower()
    if coding not in ('', 'identity', 'gzip', 'x-gzip'):
        raise web.Refused('content-encoding')
    body = _unpacked(answer.body) if 'gzip' in coding else answer.body
    return body.replace(b'\0', b'').decode('utf-8', 'replace')


def _unpacked(body: bytes) -> bytes:
    """The content, unpacked if it is gzip; Refused for a bomb or a broken one."""
    if body[:2] != b'\x1f\x8b':
        return body
    inflate = zlib.decompressobj(31)
    try:
        content = inflate.decompress(body, _SITEMAP)
    except zlib.error:
        raise web.Refused('broken gzip') from None
    if inflate.unconsumed_tail or not inflate.eof:
        raise web.Refused('size' if inflate.unconsumed_tail else 'broken gzip')
    return content

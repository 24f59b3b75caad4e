"""One request over HTTP, bounded in time and size, to public addresses only."""

from collections.abc import Mapping
import contextlib
from dataclasses import dataclass
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from urllib import parse

REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "/%:@!$&'()*+,;=~?-._[]|"
_HOST = re.compile(r'[\w.:-]+')
_PORTS = {'http': 80, 'https': 443}


class Refused(Exception):
    """Why there is no answer: 'private address', 'timeout', 'size', ..."""


@dataclass(frozen=True)
class Answer:
    """A whole response, with the headers of the request that it answers."""

    url: str
    status: int
    phrase: str
    headers: list[tuple[str, str]]
    body: bytes
    request: Mapping[str, str]

    def header(self, name: str) -> str:
        """All values of a header, joined by commas; '' where it is absent."""
        return ', '.join(v for key, v in self.headers if key.lower() == name)


def normal(url: str, base: str = '') -> str | None:
    """An http(s) address without fragment, its host in lower case; None for others."""
    try:
        parts = parse.urlsplit(parse.urljoin(base, url.strip()))
        host = (parts.hostname or '').encode('idna').decode().lower()
        port = parts.port
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or '@' in parts.netloc:
        return None
    host = f'[{host}]' if ':' in host else host
    host += '' if port in (None, _PORTS[parts.scheme]) else f':{port}'
    path, query = (parse.quote(x, safe=_SAFE) for x in (parts.path, parts.query))
    return parse.urlunsplit((parts.scheme, host, path or '/', query, ''))


def host(url: str) -> str:
    """The host of a normal address, with its port: what delays count for."""
    return parse.urlsplit(url).netloc


def origin(url: str) -> str:
    """Scheme and host of a normal address: what its robots.txt holds for."""
    return '/'.join(url.split('/', 3)[:3])


@dataclass(frozen=True)
class Client:
    """Asks for pages.

    agent: the User-Agent header. timeout: seconds until a connection or a read gives
    up. seconds: until a whole response must be there. most_bytes: of its body.
    private: whether addresses that are not global (127.0.0.1, 10.0.0.1) may be asked.
    """

    agent: str
    timeout: float
    seconds: float
    most_bytes: int
    private: bool

    def get(
        self, url: str, headers: Mapping[str, str], first: int | None = None
    ) -> Answer:
        """The answer to one GET of a normal address, redirects not followed.

        headers: besides our own. first: the bytes of the body that are enough; without
        it, a body of more than most_bytes is refused. Raises Refused.
        """
        late = threading.Event()
        try:
            return self._get(url, headers, first, late)
        except (OSError, http.client.HTTPException, ValueError, Refused) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise Refused('timeout') from None
            if isinstance(error, Refused):
                raise
            raise Refused(f'connection ({type(error).__name__})') from None

    def _get(
        self,
        url: str,
        headers: Mapping[str, str],
        first: int | None,
        late: threading.Event,
    ) -> Answer:
        parts = parse.urlsplit(url)
        name, port = parts.hostname or '', parts.port or _PORTS[parts.scheme]
        request = {
            'Host': parts.netloc,
            'User-Agent': self.agent,
            'Accept-Encoding': 'identity',
            'Connection': 'close',
            **headers,
        }
        connection = http.client.HTTPConnection(name, port)
        sock = self._connect(name, port)

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):  # that of TLS would not end a read
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

        timer = threading.Timer(self.seconds, cut)
        timer.start()
        try:
            if parts.scheme == 'https':
                tls = ssl.create_default_context()
                sock = tls.wrap_socket(
                    sock, server_hostname=name, do_handshake_on_connect=False
                )
                sock.do_handshake()
            connection.sock = sock
            path = parts.path + (f'?{parts.query}' if parts.query else '')
            connection.request('GET', path, headers=request)
            with connection.getresponse() as response:
                body = self._body(response, first)
            if late.is_set():
                raise Refused('timeout')
        finally:
            timer.cancel()
            connection.close()
            sock.close()
        found = response.getheaders()
        return Answer(url, response.status, response.reason, found, body, request)

    def _connect(self, name: str, port: int) -> socket.socket:
        """A connection to an address that was checked: names may change in between."""
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        addresses = [str(one[4][0]) for one in found]
        if not self.private and not all(map(_public, addresses)):
            raise Refused('private address')
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):  # a host may have IPv6, and we not
                return socket.create_connection((address, port), self.timeout)
        return socket.create_connection((addresses[-1], port), self.timeout)

    def _body(self, response: http.client.HTTPResponse, first: int | None) -> bytes:
        most, body = first or self.most_bytes, bytearray()
        if first is None and (response.length or 0) > most:
            raise Refused('size')
        while len(body) <= most and (block := response.read1(1 << 16)):
            body += block
        if len(body) > most and first is None:
            raise Refused('size')
        if response.length and len(body) <= most:
            raise Refused('incomplete')
        return bytes(body[:most])


# IPv6 that holds an address of IPv4 in its last or other bits: NAT64 (RFC 6052, 8215),
# translated and compatible ones, 6to4 and mapped ones; and site-local.
_INSIDE = [
    ipaddress.ip_network(one)
    for one in ['64:ff9b::/96', '64:ff9b:1::/48', '::/64', '2002::/16', 'fec0::/10']
]


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition('%')[0])
    embedded = any(found in network for network in _INSIDE)
    return found.is_global and not found.is_multicast and not embedded

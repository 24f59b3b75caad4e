"""E-mail and network addresses, keys and tokens, addresses of money.

Formats of keys are those that the services publish for scanners of secrets. What
stands for documentation (RFC 2606, 3849, 5737) belongs to no one and is left alone.
"""

from collections.abc import Iterator
import ipaddress
import re

from gptjax.data.privacy import checks
from gptjax.data.privacy.shapes import AFTER, BEFORE, WINDOW, Shape, told_by

_LETTER = 'A-Za-z0-9\u00c0-\u024f'
_LOCAL = re.compile(rf"[{_LETTER}._%+'\-]{{1,64}}")
_DOMAIN = re.compile(
    rf'@((?:[{_LETTER}](?:[{_LETTER}\-]{{0,62}})\.){{1,8}}'
    r'(?:[A-Za-z]{2,24}|xn--[a-z0-9\-]{2,40}))(?![\w@]|\.?-)',
)
_NOT_DOMAINS = re.compile(
    r'(?:.*\.)?(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|png|jpe?g|'
    r'gif|svg|webp|css|js|html?|json|php|txt|pdf|xml)',
    re.IGNORECASE,
)


class _Email(Shape):
    """From each @, the domain forwards and the name backwards: linear."""

    def find(self, text, lowered, context):  # type: ignore[no-untyped-def]
        for match in self.pattern.finditer(text):
            at = match.start()
            before = text[max(0, at - 65) : at][::-1]
            local = _LOCAL.match(before)
            if local is None or len(local[0]) == 65:
                continue
            name = local[0][::-1].lstrip(".'-+%")
            if not name or name[-1] == '.' or '..' in name or name == 'git':
                continue
            if before[local.end() : local.end() + 2] in ('//', '@') or (
                _NOT_DOMAINS.fullmatch(match[1])
            ):
                continue
            yield at - len(name), match.end()


EMAIL = (_Email(_DOMAIN, bool),)

_VERSION = told_by(
    ('version', 'versions', 'ver', 'v', 'release', 'releases', 'section', 'sections',
     'sec', 'chapter', 'clause', 'appendix', 'table', 'figure', 'fig', 'part', 'build',
     'firmware', 'kernel', 'paragraph', 'article', 'step', 'upgrade', 'upgraded',
     'update', 'updated', 'since', 'requires', 'oid', 'item', 'rule', 'driver')
)  # fmt: skip
_ADDRESS = told_by(
    ('ip', 'ips', 'ipv4', 'address', 'addr', 'host', 'server', 'dns', 'ping', 'client',
     'from', 'gateway', 'subnet', 'nameserver', 'peer', 'remote', 'proxy', 'http',
     'https', 'ssh', 'telnet', 'traceroute', 'x-forwarded-for')
)  # fmt: skip


class _IPv4(Shape):
    """Public addresses; four small numbers are a version unless a word says address."""

    def find(self, text, lowered, context):  # type: ignore[no-untyped-def]
        for match in self.pattern.finditer(text):
            start = match.start()
            try:
                address = ipaddress.IPv4Address(match[0])
            except ValueError:
                continue
            before = text[max(0, start - WINDOW) : start].lower()
            if not address.is_global or address.is_multicast or before[-1:] == '§':
                continue
            version = _last(_VERSION, before)
            told = _last(_ADDRESS, before)
            *first, last = address.packed
            if version > told or (max(first) < 40 and last < 100 and told < 0):
                continue
            yield match.span()


def _last(words: re.Pattern[str], text: str) -> int:
    return max((match.end() for match in words.finditer(text)), default=-1)


IPV4 = (
    _IPv4(
        re.compile(
            rf'[0-9]{BEFORE}(?<![A-Za-z]/.)(?<![.\-].)[0-9]{{0,2}}(?:\.[0-9]{{1,3}}){{3}}'
            r'(?!\w|\.[0-9]|-[A-Za-z])'
        ),
        bool,
    ),
)
_HEX = re.compile('[0-9A-Fa-f:.]{0,45}')


class _IPv6(Shape):
    """From each ':x:', which every address has, to both sides.

    With '::' it must lie in 2000::/3, all that is given out: 'a::b' is C++ as well.
    """

    def find(self, text, lowered, context):  # type: ignore[no-untyped-def]
        done = 0
        for match in self.pattern.finditer(text):
            at = match.start()
            if at < done:
                continue
            left = _HEX.match(text[max(done, at - 40) : at][::-1])
            right = _HEX.match(text, at)
            if left is None or right is None:
                continue
            start, end = at - left.end(), right.end()
            while text[end - 1] == '.' or text[end - 2 : end] in (':.', '.:'):
                end -= 1
            if text[end - 1] == ':' and text[end - 2] != ':':
                end -= 1
            done = end
            beside = text[max(0, start - 1) : start] + text[end : end + 1]
            if not re.search(r'\w', beside) and _public(text[start:end]):
                yield start, end


def _public(found: str) -> bool:
    try:
        address = ipaddress.IPv6Address(found)
    except ValueError:
        return False
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_global
    groups = found.split(':')
    if '::' in found:
        return len(groups) > 3 and address.is_global and int(address) >> 125 == 1
    local = address.is_private or address.is_link_local or address.is_multicast
    return not local and any(len(group) != 2 for group in groups)


IPV6 = (_IPv6(re.compile(r':[0-9A-Fa-f]{0,4}:'), bool),)

# (what must be in the text, the pattern)
_KEYS = (
    ('-----BEGIN ', r'-----BEGIN [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----'
     r'(?:(?:[\w+/=\s:,.]|-(?!----)){0,16384}+-----END [A-Z ]{0,48}-----)?'),
    ('AKIA', r'AKIA(?<!\w....)[A-Z0-9]{16}(?!\w)'),
    ('ASIA', r'ASIA(?<!\w....)[A-Z0-9]{16}(?!\w)'),
    ('aws_secret_access_key', r'(?<=aws_secret_access_key)["\' ]{0,3}[=:]["\' ]{0,3}'
     r'[A-Za-z0-9/+]{40}(?![\w/+])'),
    ('gh', r'gh[opsur]_(?<!\w....)[A-Za-z0-9]{36,255}(?!\w)'),
    ('github_pat_', r'github_pat_\w{60,255}'),
    ('glpat-', r'glpat-[\w\-]{20,64}'),
    ('AIza', r'AIza(?<!\w....)[\w\-]{35}(?![\w\-])'),
    ('xox', r'xox[abeoprs]-(?:[0-9A-Za-z\-]{10,250})'),
    ('hooks.slack.com/', r'hooks\.slack\.com/services/T\w{6,12}/B\w{6,12}/\w{16,32}'),
    ('_live_', r'(?:sk|rk|pk)_live_[0-9A-Za-z]{16,247}'),
    ('hf_', r'hf_(?<!\w...)[A-Za-z]{34}(?!\w)'),
    ('npm_', r'npm_(?<!\w....)[A-Za-z0-9]{36}(?!\w)'),
    ('pypi-', r'pypi-AgE[\w\-]{50,250}'),
    ('SG.', r'SG\.(?<!\w...)[\w\-]{22}\.[\w\-]{43}(?![\w\-])'),
    ('eyJ', r'eyJ(?<![\w.\-]...)[\w\-]{8,2048}\.eyJ[\w\-]{8,8192}\.[\w\-]{8,2048}'),
    (':AA', r'(?<![0-9])[0-9]{8,10}:AA[\w\-]{33}(?![\w\-])'),
    ('sk-', r'sk-(?<![\w\-]...)(?=[A-Za-z_\-]{0,200}[0-9])(?=[a-z0-9_\-]{0,200}[A-Z])'
     r'[\w\-]{20,250}'),
    ('://', r'://[^\s/:@"\'<>]{1,64}:[^\s/:@"\'<>]{3,128}@(?=[\w\[])'),
)  # fmt: skip


class _Key(Shape):
    def __init__(self, need: str, pattern: str):
        super().__init__(re.compile(pattern), bool, (need,))

    def find(self, text: str, lowered: str, context: bool) -> Iterator[tuple[int, int]]:
        if self.needs[0] in text:
            yield from (match.span() for match in self.pattern.finditer(text))


KEY = tuple(_Key(need, pattern) for need, pattern in _KEYS)
CRYPTO = (
    Shape(
        re.compile(rf'[13](?<!\w.)[1-9A-HJ-NP-Za-km-z]{{25,34}}{AFTER}'), checks.base58
    ),
    Shape(re.compile(rf'bc1(?<!\w...)[02-9ac-hj-np-z]{{11,71}}{AFTER}'), checks.bech32),
)

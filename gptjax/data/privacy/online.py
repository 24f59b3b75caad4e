"""E-mail and network addresses, keys and tokens.

Formats of keys are those that the services publish for scanners of secrets. What
stands for documentation (RFC 2606, 3849, 5737) belongs to no one and is left alone.
"""

import ipaddress
import re

from gptjax.data.privacy import shapes

_LETTER = 'A-Za-z0-9\u00c0-\u024f'
_LOCAL = re.compile(rf"[{_LETTER}._%+'\-]{{1,64}}")
_DOMAIN = re.compile(
    rf'@((?:[{_LETTER}](?:[{_LETTER}\-]{{0,62}})\.){{1,8}}'
    rf'(?:[A-Za-z]{{2,24}}|xn--[a-z0-9\-]{{2,40}}))(?!{shapes.WORD}|[@(]|\.?-)',
)
# Domains of the first level that addresses have: countries (two letters that end no
# names of files) and the common others. In code, '@' is a product: 'x@self.weight'.
_TOP = re.compile(
    r"""[a-z]{2}(?<!cs|gz|js|ts|xz)|xn--.*|
    com|org|net|edu|gov|mil|int|info|biz|name|pro|aero|coop|museum|jobs|mobi|tel|travel|
    cat|asia|xyz|top|site|online|shop|store|app|dev|cloud|tech|club|live|life|world|
    email|space|website|blog|art|agency|digital|media|news|studio|group|solutions|
    services|academy|school|university|institute|science|foundation|church|works|work|
    systems|network|software|company|consulting|engineering|center|today|team|design|
    global|guru|expert|ltd|inc|llc|gmbh|one|fun|icu|vip|link|wiki|bio|eco|ngo|green|
    health|care|legal|law|house|city|events|energy|finance|capital|ventures|partners|
    bank|berlin|hamburg|koeln|wien|swiss|paris|london|amsterdam|nyc|tokyo|africa""",
    re.VERBOSE,
)
_RESERVED = re.compile(
    r'(?:.*\.)?example(?:\.(?:com|org|net|edu))?|.*\.(?:test|invalid)', re.IGNORECASE
)


def _email(match: re.Match[str]) -> shapes.Place | None:
    """From each @, the domain forwards and the name backwards: linear."""
    at, domain = match.start(), match[1]
    reversed_ = match.string[max(0, at - 66) : at][::-1]
    local = _LOCAL.match(reversed_)
    first, _, last = domain.rpartition('.')
    if last.istitle() and not _top(domain):
        domain = first  # a sentence follows without a space
    if local is None or not _top(domain) or _RESERVED.fullmatch(domain):
        return None
    name = local[0][::-1].lstrip(".'-+%")
    if not name or name[-1] == '.' or '..' in name or name == 'git':
        return None
    if reversed_[local.end() : local.end() + 2] == '//':
        return None
    return at - len(name), at + 1 + len(domain)


def _top(domain: str) -> bool:
    _, dot, last = domain.rpartition('.')
    one_case = last in (last.lower(), last.upper(), last.title())
    return bool(dot) and one_case and _TOP.fullmatch(last.lower()) is not None


EMAIL = (shapes.Shape(_DOMAIN, _email),)

_VERSION = shapes.told_by(
    ('version', 'versions', 'ver', 'v', 'release', 'releases', 'section', 'sections',
     'sec', 'chapter', 'clause', 'appendix', 'table', 'figure', 'fig', 'part', 'build',
     'firmware', 'kernel', 'paragraph', 'article', 'step', 'upgrade', 'upgraded',
     'update', 'updated', 'since', 'requires', 'oid', 'item', 'rule', 'driver')
)  # fmt: skip
_ADDRESS = shapes.told_by(
    ('ip', 'ips', 'ipv4', 'address', 'addr', 'host', 'server', 'dns', 'ping', 'client',
     'from', 'gateway', 'subnet', 'nameserver', 'peer', 'remote', 'proxy', 'http',
     'https', 'ssh', 'telnet', 'traceroute', 'x-forwarded-for')
)  # fmt: skip


def _ipv4(match: re.Match[str]) -> shapes.Place | None:
    """Public addresses; four small numbers are a version unless a word says address."""
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return None
    earlier = shapes.before(match)
    version, told = shapes.last(_VERSION, earlier), shapes.last(_ADDRESS, earlier)
    *first, fourth = address.packed
    small = max(first) < 40 and fourth < 100 and told < 0
    private = not address.is_global or address.is_multicast
    if private or version > told or small or earlier[-1:] == '§':
        return None
    return match.span()


IPV4 = (
    shapes.Shape(
        re.compile(
            rf'[0-9]{shapes.BEFORE}(?<![A-Za-z]/.)(?<![.\-].)[0-9]{{0,2}}(?:\.[0-9]{{1,3}}){{3}}'
            rf'(?!{shapes.WORD}|\.[0-9]|-[A-Za-z])'
        ),
        _ipv4,
    ),
)
_HEX = re.compile('[0-9A-Fa-f:.]{0,45}')


def _ipv6(match: re.Match[str]) -> shapes.Place | None:
    """From ':x:', which every address has, to both sides.

    With '::' it must lie in 2000::/3, all that is given out: 'a::b' is C++ as well.
    """
    text, at = match.string, match.start()
    left = _HEX.match(text[max(0, at - 40) : at][::-1])
    right = _HEX.match(text, at)
    assert left is not None
    assert right is not None
    start, end = at - left.end(), right.end()
    while text[end - 1] == '.' or (text[end - 1] == ':' and text[end - 2] != ':'):
        end -= 1
    beside = text[max(0, start - 1) : start] + text[end : end + 1]
    found = not re.search(shapes.WORD, beside) and _public(text[start:end])
    return (start, end) if found else None


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


IPV6 = (shapes.Shape(re.compile(r':[0-9A-Fa-f]{0,4}:'), _ipv6),)

# (what must be in the text, the pattern, with a group where that is not the secret)
_KEYS = (
    ('-----BEGIN ', r'-----BEGIN [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----'
     r'(?:(?:[\w+/=\s:,.]|-(?!----)){0,16384}+-----END [A-Z ]{0,48}-----)?'),
    ('AKIA', r'AKIA(?<!\w....)[A-Z0-9]{16}(?!\w)'),
    ('ASIA', r'ASIA(?<!\w....)[A-Z0-9]{16}(?!\w)'),
    ('aws_secret_access_key', r'(?<=aws_secret_access_key)["\' ]{0,3}[=:]["\' ]{0,3}'
     r'([A-Za-z0-9/+]{40})(?![\w/+])'),
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
    ('://', r'://([^\s/:@"\'<>]{1,64}:[^\s/:@"\'<>]{3,128})@(?=[\w\[])'),
)  # fmt: skip


def _secret(match: re.Match[str]) -> shapes.Place:
    return match.span(match.lastindex or 0)


KEY = tuple(
    shapes.Shape(re.compile(pattern, re.ASCII), _secret, (need.lower(),))
    for need, pattern in _KEYS
)

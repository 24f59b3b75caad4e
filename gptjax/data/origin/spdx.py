"""Licences by their SPDX identifiers: names, addresses and expressions.

Identifiers and the grammar are those of the SPDX specification, annex D. What the list
of SPDX lacks has a LicenseRef: LicenseRef-Public-Domain for works that are in the
public domain, LicenseRef-CC-BY-SA for a Creative Commons licence without a version.
"""

from collections.abc import Collection
import functools
import re
from typing import Any

UNKNOWN = 'unknown'
PUBLIC_DOMAIN = 'LicenseRef-Public-Domain'

# With other names as `_key` makes them. Creative Commons and the licences of GNU are
# not listed: they follow rules.
_NAMES = """
    CC0-1.0 CC-PDDC=creativecommonspublicdomaindedicationandcertification
    CC-PDM-1.0=ccpdm=pdm=publicdomainmark=publicdomainmark1=ccpublicdomainmark1
    PDDL-1.0=publicdomaindedicationand1=pddl Unlicense=unlicence 0BSD
    MIT-0=mitnoattribution WTFPL SAX-PD LicenseRef-Public-Domain=publicdomain
    AFL-2.1 AFL-3.0 Apache-1.1 Apache-2.0=apachesoftware2 Artistic-1.0 Artistic-2.0
    BlueOak-1.0.0=blueoakmodel1 BSD-1-Clause
    BSD-2-Clause=bsd2=2clausebsd=simplifiedbsd=bsd2clausesimplified
    BSD-2-Clause-Patent
    BSD-3-Clause=bsd3=3clausebsd=newbsd=modifiedbsd=bsd3clauseneworrevised
    BSD-3-Clause-Clear=clearbsd BSD-3-Clause-LBNL
    BSD-4-Clause=originalbsd=4clausebsd=bsd4clauseoriginalorold
    BSL-1.0=boostsoftware1=boostsoftware
    CDLA-Permissive-1.0=communitydataagreementpermissive1 CDLA-Permissive-2.0
    CERN-OHL-P-2.0 CNRI-Python DOC ECL-2.0 EFL-2.0 FTL HPND ICU IJG ISC JSON Libpng
    libtiff MIT=expat MIT-Modern-Variant MS-PL=microsoftpublic MulanPSL-2.0
    NCSA=universityofillinoisncsaopensource OGL-UK-1.0 OGL-UK-2.0
    OGL-UK-3.0=opengovernment3 OLDAP-2.8 OPL-UK-3.0=openparliament OpenSSL
    ODC-By-1.0=odcby=opendatacommonsattribution1 etalab-2.0 DL-DE-BY-2.0 PHP-3.01
    PostgreSQL PSF-2.0=pythonsoftwarefoundation=pythonsoftwarefoundation2 Python-2.0
    Ruby TCL TU-Berlin Unicode-3.0 Unicode-DFS-2016 UPL-1.0=universalpermissive1 Vim
    W3C X11 XFree86-1.1 Xnet Zlib=zliblibpng ZPL-2.1 curl bzip2-1.0.6
    OPUBL-1.0=openpublication=openpublication1=openpub
    ODbL-1.0=opendatabase1=opendatacommonsopendatabase1=odbl CDLA-Sharing-1.0 DSL
    FreeImage CC-SA-1.0 CDDL-1.0 CDDL-1.1 CECILL-2.1 CERN-OHL-S-2.0 CERN-OHL-W-2.0
    CPL-1.0 EPL-1.0=eclipsepublic1 EPL-2.0=eclipsepublic2 EUPL-1.1
    EUPL-1.2=europeanunionpublic1.2 IPL-1.0 LPPL-1.3c MPL-1.1=mozillapublic1.1
    MPL-2.0=mozillapublic2 MPL-2.0-no-copyleft-exception MS-RL=microsoftreciprocal
    OFL-1.1=silopenfont1.1=openfont1.1 OSL-3.0 QPL-1.0 SISSL Sleepycat BUSL-1.1
    Elastic-2.0 SSPL-1.0 LicenseRef-Proprietary=proprietary=allrightsreserved
"""
_EXCEPTIONS = (
    'Autoconf-exception-3.0 Bison-exception-2.2 Classpath-exception-2.0 '
    'Font-exception-2.0 GCC-exception-3.1 LLVM-exception '
    'Linux-syscall-note OpenJDK-assembly-exception-1.0 WxWindows-exception-3.1'
)
_NOISE = re.compile(r'\b(?:the|licen[sc]e|version|ver)\b|"|\bv\.?(?=\s*\d)')
_GNU = re.compile(
    r'(?:gnu)?([al]?gpl|g?fdl)v?(\d(?:\.\d)?)?(?:no|)(?:invariants)?'
    r'(|only|orlater|oranylater|\+)'
)
_GNU_WORDS = {
    'affero general public': 'agpl',
    'lesser general public': 'lgpl',
    'library general public': 'lgpl',
    'general public': 'gpl',
    'free documentation': 'gfdl',
}
_FIRST = {'GPL': '1.0', 'LGPL': '2.0', 'AGPL': '1.0', 'GFDL': '1.1'}
_CC_WORDS = {
    re.compile(pattern): f' {short} '
    for pattern, short in {
        r'creative\s*commons': 'cc',
        r'attribution': 'by',
        r'non\W?commercial': 'nc',
        r'share\W?alike': 'sa',
        r'no\W?deriv(?:ative|ate)?s?(?:\W+works?)?': 'nd',
    }.items()
}
_CC = re.compile(
    r'((?:cc )*)(by|nc|nd|sa)((?: nc| nd| sa)*)(?: (\d\.\d))?'
    r'(?: (?:international|unported|generic|igo|deed|united states|legalcode'
    r'|(?!no|nc|nd|sa|by|or)[a-z]{2}))*'
)
_CC0 = re.compile(
    r'(?=cc|creative|publicd)(?:creativecommons)?(?:cc|publicdomain)?(?:zero|0)1?'
    r'(?:universal)?(?:publicdomain)?(?:dedication)?'
)
_LATER = re.compile(r'\bor\s+(?:any\s+)?later(?:\s+version)?\b', re.I)
_OPERATORS = re.compile(r'([()])|\s+(and|or|with)\s+|(?<=\w)\s*([/|])\s*(?=\w)', re.I)
_CC_VERSIONS = ('1.0', '2.0', '2.1', '2.5', '3.0', '4.0')
_URL = re.compile(r'(?:https?:)?//(?:www\.)?([\w.-]+)/([^?#]*)', re.I)
_HOSTS = (
    'creativecommons.org opensource.org spdx.org choosealicense.com gnu.org apache.org '
    'mozilla.org eclipse.org unlicense.org opendatacommons.org cdla.dev boost.org '
    'opencontent.org nationalarchives.gov.uk parliament.uk scripts.sil.org'
)
_SUFFIX = re.compile(r'(?:\.en)?\.(?:html?|txt|php|json)$')
_PATHS = ('', 'licenses', 'license', 'version', 'legal', 'old-licenses', 'copyleft')


@functools.lru_cache(4096)
def parse(text: str) -> str:
    """The SPDX expression for an expression, name or address; 'unknown' if any part is.

    'gpl-2.0+ or the MIT License' is 'GPL-2.0-or-later OR MIT'; deprecated identifiers
    get their successors, ports of Creative Commons licences their unported version.
    """
    tree = _tree(text)
    return UNKNOWN if tree is None else _format(tree)


def allowed(expression: str, allowed_ids: Collection[str]) -> bool:
    """Whether one may use it by the licences `allowed_ids`: any of OR, all of AND.

    What is of one version 'or later' is allowed where a later one is, and a licence
    with an exception where the licence is. Nothing allows what is unknown.
    """
    return _allowed(expression, frozenset(allowed_ids))


@functools.lru_cache(4096)
def _allowed(expression: str, allowed_ids: frozenset[str]) -> bool:
    tree = _tree(expression)
    known = {parse(one) for one in allowed_ids} - {UNKNOWN}
    return tree is not None and _holds(tree, known)


# An expression is an identifier or (operator, expressions).
Tree = str | tuple[str, list[Any]]


def _holds(tree: Tree, known: set[str]) -> bool:
    if isinstance(tree, str):
        base = tree.partition(' WITH ')[0]
        if {tree, base} & known:
            return True
        family, later, _ = base.partition('-or-later')
        name = family.rpartition('-')[0]
        return bool(later) and any(
            one.startswith(f'{name}-') and one >= family and ' ' not in one
            for one in known
        )
    operator, parts = tree
    return (any if operator == 'OR' else all)(_holds(part, known) for part in parts)


def _format(tree: Tree) -> str:
    if isinstance(tree, str):
        return tree
    operator, parts = tree
    written = []
    for part in parts:
        inner = _format(part)
        inside = operator == 'AND' and not isinstance(part, str)
        written.append(f'({inner})' if inside else inner)
    return f' {operator} '.join(dict.fromkeys(written))


def _tree(text: str) -> Tree | None:
    """What the text means: as one name if it is one, else as an expression."""
    if len(text) > 1000 or text.count('(') > 50:
        return None
    twice = re.fullmatch(r'([^()]+)\(([^()]+)\)', text)
    if twice and identifier(twice[1]) == identifier(twice[2]) is not None:
        text = twice[1]  # 'The MIT License (MIT)'
    name = None if re.search('[()]', text) else identifier(text)
    if name is not None:
        return name
    cut = _OPERATORS.split(_LATER.sub('+', text))
    tokens = [one.strip() for one in cut if one and one.strip()]
    if len(tokens) < 2:
        return None
    tokens = [{'/': 'OR', '|': 'OR'}.get(one, one) for one in tokens][::-1]
    tree = _sum(tokens)
    return None if tokens else tree


def _sum(tokens: list[str], operator: str = 'OR') -> Tree | None:
    """Takes alternatives of sums of operands off the reversed tokens; None if wrong."""
    parts: list[Tree] = []
    while True:
        part = _sum(tokens, 'AND') if operator == 'OR' else _operand(tokens)
        if part is None:
            return None
        if not isinstance(part, str) and part[0] == operator:
            parts += part[1]
        elif part not in parts:
            parts.append(part)
        if not tokens or tokens[-1].upper() != operator:
            return parts[0] if len(parts) == 1 else (operator, parts)
        tokens.pop()


def _operand(tokens: list[str]) -> Tree | None:
    first = tokens.pop() if tokens else ''
    if first == '(':
        inner = _sum(tokens)
        return inner if tokens and tokens.pop() == ')' else None
    name = identifier(first)
    if name is None or not tokens or tokens[-1].upper() != 'WITH':
        return name
    tokens.pop()
    exception = tokens.pop().lower() if tokens else ''
    found = {one.lower(): one for one in _EXCEPTIONS.split()}.get(exception)
    return None if found is None else f'{name} WITH {found}'


def identifier(text: str) -> str | None:
    """The SPDX identifier of one licence by its identifier, name or address."""
    text = text.strip().strip('.,;').rpartition(' :: ')[2]
    if not text.isascii():  # '不MIT' is not MIT
        return None
    match = _URL.match(text)
    if match:
        return _of_url(match[1].lower(), match[2])
    if re.fullmatch(r'LicenseRef-[\w.-]+', text):
        return text
    lowered = _NOISE.sub(' ', text.lower().replace('_', ' '))
    key = _key(text)
    if _CC0.fullmatch(key):
        return 'CC0-1.0'
    return _creative_commons(lowered) or _gnu(lowered) or _names().get(key)


def _of_url(host: str, path: str) -> str | None:
    if host.endswith('.creativecommons.org'):
        host = 'creativecommons.org'
    if host not in _HOSTS.split():
        return None
    parts = [_SUFFIX.sub('', part) for part in path.split('/')]
    words = [p for p in parts if p.lower() not in _PATHS]
    if host == 'creativecommons.org':
        if words[:1] == ['publicdomain']:
            known = {'zero': 'CC0-1.0', 'mark': 'CC-PDM-1.0'}
            return known.get(([*words, ''])[1], 'CC-PDDC')
        return _creative_commons(' '.join(['cc', *words[:2]]).lower())
    for count in (1, 2):
        name = ' '.join(words[-count:]).replace('LICENSE-', '')
        name = re.sub(r'(\d)-(?=\d$)', r'\1.', name)
        for tried in (name, f'{host.split(".")[0]} {name}'):
            found = identifier(tried) if '/' not in tried else None
            if found is not None:
                return found
    return None


def _creative_commons(name: str) -> str | None:
    for pattern, short in _CC_WORDS.items():
        name = pattern.sub(short, name)
    match = _CC.fullmatch(' '.join(re.sub(r'[^\w.]', ' ', name).split()))
    if match is None or not (match[1] or match[4]):
        return None
    flags = {match[2], *match[3].split()}
    if 'by' not in flags or {'nd', 'sa'} <= flags:
        return None
    order = [flag.upper() for flag in ('by', 'nc', 'nd', 'sa') if flag in flags]
    body = '-'.join(['CC', *order])
    if match[4] is None:
        return f'LicenseRef-{body}'
    return f'{body}-{match[4]}' if match[4] in _CC_VERSIONS else None


def _gnu(name: str) -> str | None:
    for long, short in _GNU_WORDS.items():
        name = name.replace(long, short)
    match = _GNU.fullmatch(re.sub(r'[^a-z0-9.+]', '', name).strip('.'))
    if match is None:
        return None
    family = {'FDL': 'GFDL'}.get(match[1].upper(), match[1].upper())
    version, later = match[2], match[3] not in ('', 'only')
    if version is None:
        version, later = _FIRST[family], True
    version += '' if '.' in version else '.0'
    return f'{family}-{version}-{"or-later" if later else "only"}'


def _key(name: str) -> str:
    """What is the same for all ways in which people write one name."""
    words = _NOISE.sub(' ', name.lower())
    return re.sub(r'(?:\.0)+(?!\d)|[^a-z0-9.]', '', words).rstrip('.')


@functools.cache
def _names() -> dict[str, str]:
    """Identifiers by the key of each name."""
    names: dict[str, str] = {}
    for entry in _NAMES.split():
        licence, *aliases = entry.split('=')
        names |= dict.fromkeys([_key(licence), *aliases], licence)
    return names

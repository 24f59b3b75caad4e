"""The licence that a text names for itself, with the words that name it.

Only what speaks of the work itself counts, at its beginning or its end: not 'the
company released its model under ...', nothing that is negated, quoted or a sample of
code. A wrong licence is worse than none. Where several are found on the strongest kind
of evidence all of them hold: 'A AND B' is allowed only where both are.
"""

from collections.abc import Iterable, Iterator
import re

from gptjax.data.origin import spdx, texts

Found = tuple[str, str]  # licence, evidence

_HINTS = (
    'licen', 'public domain', 'free of charge', 'redistribution', 'gutenberg',
    'creative commons', 'permission', 'cc0', 'cc by', 'cc-by', '许可证',
)  # fmt: skip
_LONG = 60_000  # characters of each end of a text in which a whole licence is found
EDGE = 5000  # and in which a work speaks of itself
_SAMPLE = re.compile(
    r'^ {0,3}```.*?(?:^ {0,3}```|\Z)|^ {0,3}>.*?$'
    r'|`[^`\n]{0,200}(?:SPDX|[Tt]his |icensed under)[^`\n]{0,200}`',
    re.M | re.S,
)
_LEADER = r'(?:[ \t#*;%!]|//|/\*|\(\*|\{-|\"{3}|<!--|\.\.|--|(?:REM|rem)\b)+'
_SPDX = re.compile(
    rf'^(?! {{4}}|\t)(?:{_LEADER})?SPDX-License-Identifier:[ \t]*'
    r'([^\n\r*>"\']{2,200})',
    re.M,
)
_WORK = (
    r'\b(?:this|the present) (?:[\w-]+ ){0,2}?(?:article|book|code|content|corpus|data'
    r'|database|dataset|document|documentation|ebook|file|form|guide|library|material'
    r'|module|page|p\.?e\.?p\.?|package|paper|poem|post|program|project|publication'
    r'|repository|report|script|site|software|specification|story|text|translation'
    r'|website|wiki|work)s?'
)
_PARTS = r'(?:contents?|text|materials?|data)'
_THESE = rf'(?:(?:the|all|our) )?{_PARTS} (?:of|on|in|from) (?:this|our) [\w-]+'
_IS = (
    r'(?: (?:is|are|was|were|has|have|been|being|may|can|be|also|now|hereby|made|freely'
    r'|dual|dually)){1,4}'
)
_DONE = (
    r'(?: (?:dual-|re-?)?(?:licen[sc]ed|released|distributed|redistributed|published'
    r'|available|provided|covered|offered|shared|issued|governed|contributed|copied'
    r'|used)(?: to \w+| here)?)?'
)
_TERMS = r'(?: (?:the|all))?(?: terms(?: and conditions)?(?: set forth in| of))?'
_BY = rf'{_IS}{_DONE} (?:(?:only )?subject to|under|through){_TERMS} (?=(.{{2,160}}))'
UNDER = re.compile(rf'(?:{_WORK}|(?<!\w){_THESE}){_BY}', re.I)
# Footers: 'Content is available under ...', which is of anything in running text.
_FOOTER = re.compile(rf'(?:^|[.;:,|] )(?:(?:the|all|our) )?{_PARTS}{_BY}', re.I)
_HEADER = re.compile(
    r'(?:^|(?:copyright|©|\(c\)).{0,150}[\s.;])(?:dual[- ])?licen[sc]ed '
    rf'under{_TERMS} (?=(.{{2,160}}))',
    re.I,
)
DOMAIN = re.compile(
    rf'{_WORK} (?:is|are|has been|have been) (?:hereby |now )?(?:(?:released|placed|put'
    r'|dedicated|donated|given|contributed) )?(?:(?:in|into|to) )?the public domain'
    r'(?=(.{0,60}))',
    re.I,
)
_GRANT = re.compile(
    rf'[\w.+-]{{1,40}} is free software|permission is granted|{_WORK}', re.I
)
_GNU = re.compile(
    r'\bunder the terms of (?:version (\d(?:\.\d)?) of )?the GNU ((?:(?:Affero |Lesser '
    r'|Library )?General Public|Free Documentation) License)'
    r'(?=(.{0,120}published by.{0,99}))',
    re.I,
)
_VERSION = re.compile(
    r'version (\d(?:\.\d)?)(?: of the licen[sc]e)?,?( or (?:\(at your option\) )?any '
    r'later)?',
    re.I,
)
_BEFORE = re.compile(
    r'^(?:(?:dual[- ])?licensed under\s+)?(?:(?:an?|the|either(?: of)?|terms of)\s+)*',
    re.I,
)
# What makes of a sentence no statement of the work about itself, as it is now.
_DOUBT = re.compile(
    r"\b(?:if|whether|suppose|wish|should|could|would|not|never|no longer|cannot|\w+n't"
    r'|example|parts?|portions?|some|most|previous\w*|prior|earlier|older|former\w*'
    r'|sa(?:y|ys|id)|wr(?:ite|ites|ote)|claims?|powered|themes?|templates?|icons?|fonts?'
    r'|may be (?:re)?licen[sc]ed)\b',
    re.I,
)
_QUOTED = re.compile(
    r'(?:["“«\'>]|\b(?!licen|copyright|rights|noti?ce?|legal)\w+:)\s*$', re.I
)
_ENDED = re.compile(r'\?|\b(?:until|disputed|expired|revoked)\b', re.I)
# What takes some of a licence away, right after it or in the next words.
_BUT = re.compile(
    r'\W*(?:non|no\b|nc\b|nd\b|sa\b|share|but\b|with\b|only\b|plus\b|(?:for|in) '
    r'(?:non|personal|research|academic)|except(?! (?:where|as|when)\b)'
    r'|and (?:the|an?|commercial|other|additional)\b)',
    re.I,
)
_RESTRICTED = re.compile(
    r'non-?commercial|(?:no|not for) commercial|commercial (?:use|purposes?) '
    r'(?:is|are) (?:not|prohibited|forbidden)'
    r'|(?:personal|research) (?:use|purposes) only',
    re.I,
)
_COUNTRIES = re.compile(
    r'\W*(?:(?:in|within)(?! (?:the (?:united states|usa?\b|u\.s)|all|any|every))'
    r'|outside|except|if|when|after|until|but|not|only)\b',
    re.I,
)
_LINE = re.compile(
    r'^ {0,3}(?:[^\w\s`"\']{1,3} ?){0,2}licen[sc]e[ \t*_]*:[ \t*_]*(\S.{1,80})$',
    re.I | re.M,
)
_HEADING = re.compile(
    r'(?:^#+[ \t]*licen[sc]e[ \t:#]*|^licen[sc]e[ \t]*\n[=~-]{3,})\n+(.{2,160})',
    re.I | re.M,
)
_AFTER_NAME = re.compile(r'\W*(?:$|©|\(c\)|copyright|see\b|licen[sc]e|\d{4})', re.I)
_GUTENBERG = re.compile(
    r'under the terms of the Project Gutenberg Licen[sc]e included'
    r'|is a "public domain" work distributed by Professor',
    re.I,
)
_COPYRIGHTED = re.compile(r'COPYRIGHTED Project Gutenberg|\[\*\] This particular work')
_EBOOKS = re.compile(
    r'this ebook are believed to be in the United States public domain', re.I
)


def from_text(text: str, *, footer: bool = False) -> Found | None:
    """(SPDX licence, the words that say so), or None where nothing says one.

    Reads, in this order: SPDX-License-Identifier lines of the head, the whole texts of
    licences, statements of the work about itself, and lines 'License: ...'.
    footer: the text is all of a site's footer: 'Text is under ...' speaks of the page.
    """
    text = _ends(text, _LONG)
    if not _hinted(text):
        return None
    text = _SAMPLE.sub('\n', text)
    ids = [one.strip(' -}\t') for one in _SPDX.findall(text[:EDGE])]
    edges = _ends(text, EDGE)
    # A file that begins with the name of a licence may be all of it.
    whole = texts.identify(text if _hinted(text[:300]) else edges)
    return first(
        ((spdx.parse(one), f'SPDX-License-Identifier: {one}') for one in ids),
        ((one, f'the text of {one}') for one in whole),
        _statements(_plain(edges), footer),
        _named(edges),
        _library(text),
    )


def _hinted(text: str) -> bool:
    lowered = text.lower()
    return any(hint in lowered for hint in _HINTS)


def _ends(text: str, size: int) -> str:
    return text if len(text) <= 2 * size else f'{text[:size]}\n{text[-size:]}'


def _plain(text: str) -> str:
    text = re.sub(f'^{_LEADER}', '', text, flags=re.M)
    text = re.sub(r'\n\s*\n', ' . ', text)  # a paragraph ends its last sentence
    return ' '.join(re.sub(r'[`_]+', '', text).split())


def first(*kinds: Iterable[Found]) -> Found | None:
    """All that the first kind of evidence says; None where any of it is unknown."""
    for kind in kinds:
        kept = dict(reversed(list(kind)))
        if kept:
            ids = sorted(kept)
            licence = spdx.parse(' AND '.join(f'({one})' for one in ids))
            said = '; '.join(kept[one] for one in ids)[:300]
            return None if licence == spdx.UNKNOWN else (licence, said)
    return None


def statement(plain: str, start: int, end: int) -> str | None:
    """A statement to its sentence's end; None where it is doubted, quoted or past."""
    before = re.split(r'[.!?;] ', plain[max(0, start - 120) : start])[-1]
    after = re.split(r'(?<=[.!?;]) (?!\d)', plain[end : end + 200])[0]
    own = plain[start:end]
    if _DOUBT.search(before + own) or _QUOTED.search(before) or _ENDED.search(after):
        return None
    said = re.sub(r' \.(?= )', '', own + after)
    return said if len(said) <= 160 else said[:160].rpartition(' ')[0] + ' ...'


def _statements(plain: str, footer: bool) -> Iterator[Found]:
    for match in DOMAIN.finditer(plain):
        said = statement(plain, *match.span())
        if said and not _COUNTRIES.match(match[1]):
            rest = match[1].lower()
            licence = spdx.PUBLIC_DOMAIN
            if 'cc0' in rest:
                licence = f'{licence} OR CC0-1.0' if ' or ' in rest else 'CC0-1.0'
            yield licence, said
    gnu = False
    for match in _GNU.finditer(plain):
        for grant in _GRANT.finditer(plain, max(0, match.start() - 200), match.start()):
            if said := statement(plain, grant.start(), match.end()):
                gnu = True
                yield _gnu(match), said
                break
    for pattern in (UNDER, _HEADER, *([_FOOTER] if footer else [])):
        for match in pattern.finditer(plain):
            said = statement(plain, *match.span())
            if said and not (gnu and 'GNU' in match[1]):
                named = _prefix(match[1])
                if named or 'icen' in match[0]:
                    yield named or spdx.UNKNOWN, said


def _gnu(match: re.Match[str]) -> str:
    version = _VERSION.search(match[3])
    number = match[1] or (version[1] if version else '')
    later = '+' if version and version[2] else ''
    return spdx.parse(f'GNU {match[2]} {number}{later}')


def _prefix(words: str, *, alone: bool = False) -> str | None:
    """The licence that the first of these words name: as many words as possible.

    None where what follows takes some of it away: 'CC BY 4.0 (non-commercial use)'.
    alone: nothing but a copyright or a new sentence may follow.
    """
    parts = _BEFORE.sub('', words).split()[:14]
    for count in range(len(parts), 0, -1):
        found = spdx.parse(' '.join(parts[:count]).strip('.,;:()[]*<>'))
        if found != spdx.UNKNOWN:
            rest = ' '.join(parts[count:])
            ended = parts[count - 1][-1] in '.;' or _AFTER_NAME.match(rest)
            less = '-NC' not in found and _RESTRICTED.search(words)
            cut = less or _BUT.match(rest) or (alone and not ended)
            return None if cut else found
    return None


def _named(text: str) -> Iterator[Found]:
    """What lines 'License: NAME' and such sections say, if they agree."""
    lines = {match[0].strip(): spdx.parse(match[1].strip(' \t*_'))
             for match in _LINE.finditer(text)}  # fmt: skip
    for said, licence in lines.items():
        yield licence if len({*lines.values()}) == 1 else spdx.UNKNOWN, said
    for match in _HEADING.finditer(text):
        named = _prefix(re.sub(r'[*_`\[\]]', '', match[1]), alone=True)
        if named:
            yield named, ' '.join(match[0].split())


def _library(text: str) -> Iterator[Found]:
    """Project Gutenberg and Standard Ebooks: in the public domain of the USA."""
    if 'Gutenberg' in text or 'CC0 1.0' in text:
        plain = _plain(text)
        ebooks, gutenberg = _EBOOKS.search(plain), _GUTENBERG.search(plain)
        if ebooks and 'CC0 1.0' in plain:
            yield f'{spdx.PUBLIC_DOMAIN} AND CC0-1.0', ebooks[0]
        elif gutenberg and not _COPYRIGHTED.search(plain):
            yield spdx.PUBLIC_DOMAIN, gutenberg[0]

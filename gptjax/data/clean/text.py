"""Steps that clean a text: encodings, characters, white space, boilerplate, length."""

from collections import Counter
from collections.abc import Callable
import re
import sys
import unicodedata

from gptjax import command
from gptjax.data import documents, extras, steps

_PAIR = re.compile('[\ud800-\udfff]')
_LINE_ENDS = re.compile('\r\n?|[\x0b\x0c\x85\u2028\u2029]')
# Control characters, terminal colours, and what shows nothing: soft hyphens, zero-width
# spaces, byte order marks, tags of annotations. Joiners (Persian, Hindi, emoji) and
# marks of direction (Arabic, Hebrew) mean something, and stay.
_INVISIBLE = re.compile(
    '\x1b\\[[0-9;]{0,16}[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u2060-\u2064'
    '\u206a-\u206f\ufeff\ufff9-\ufffc]'
)
_SPACES = re.compile('[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]')
_TRAILING = re.compile(r'[ \t](?<![ \t].)[ \t]*$', re.MULTILINE)
_RUNS = re.compile(r'[ \t](?<=\S.)(?:[ \t]+|(?<=\t))')
_BLANK = re.compile('\n{3,}')


def normalise(*, ftfy: bool, form: str | None, spaces: bool) -> steps.Step:
    """Repairs encodings and characters; what is empty then is rejected as 'empty'.

    ftfy: undoes UTF-8 that was read as another encoding ('â€™'), and nothing else:
        quotes, ligatures, full-width letters and HTML entities stay as they are.
    form: 'NFC', 'NFKC', or None to leave it. Of more than 30 marks on one letter the
        first 30 stay (as in UAX #15, section 13): n of them take n^2 steps to order.
    spaces: runs of spaces and tabs behind a word become one space; for code, False.
    Always: one kind of line end, no control or invisible characters, half surrogate
    pairs as U+FFFD, no white space at the ends of lines, at most one blank line.
    """
    if form not in (None, 'NFC', 'NFKC'):
        raise command.UserError(
            f'normalise.form is {form!r}; it needs to be NFC, NFKC or None.'
        )
    decode, marks = _decoder() if ftfy else None, _many_marks()

    def change(text: str) -> str:
        if not text.isascii():
            if decode is not None:
                text = decode(text)
            if _PAIR.search(text):
                text = text.encode('utf-16', 'surrogatepass').decode(
                    'utf-16', 'replace'
                )
        text = _LINE_ENDS.sub('\n', text)
        text = _INVISIBLE.sub('', text)
        if not text.isascii():
            if form is not None and not unicodedata.is_normalized(form, text):  # type: ignore[arg-type]
                few = marks.sub(r'\1', text)
                text = unicodedata.normalize(form, few)  # type: ignore[arg-type]
            text = _SPACES.sub(' ', text)
        if spaces:
            text = _RUNS.sub(' ', text)
        text = _BLANK.sub('\n\n', _TRAILING.sub('', text))
        return text.strip('\n').rstrip()

    return _cleaner(change)


def _many_marks() -> re.Pattern[str]:
    marks = ''.join(filter(unicodedata.combining, map(chr, range(sys.maxunicode))))
    return re.compile(f'([{marks}]{{30}})[{marks}]+')


def _decoder() -> Callable[[str], str]:
    """ftfy's repair of encodings, asked only about lines that look broken to it."""
    fixer = extras.need('ftfy', 'data')
    bad = extras.need('ftfy.badness', 'data').is_bad
    config = fixer.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )

    def decode(text: str) -> str:
        return '\n'.join(
            line if line.isascii() or not bad(line) else fixer.fix_text(line, config)
            for line in text.split('\n')
        )

    return decode


def _cleaner(change: Callable[[str], str]) -> steps.Step:
    def step(document: documents.Document) -> steps.Result:
        after = document.changed(change)
        return after if after.whole.strip() else documents.Reject('empty', 0.0)

    return step


_START = re.compile(
    r'^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK.{0,200}$|'
    r'^\*END\*? ?THE SMALL PRINT!.{0,200}$|^\*END THE SMALL PRINT!.{0,200}$',
    re.MULTILINE | re.IGNORECASE,
)
_END = re.compile(
    r'^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK|^End of (?:the )?Project '
    r"Gutenberg(?:'s)?",
    re.MULTILINE | re.IGNORECASE,
)
_PRODUCED = re.compile(r'\s*Produced by .{1,400}?\n\n', re.DOTALL)
_NOTICE = re.compile(
    r'(?:\b(?:cookies?|privacy policy|terms (?:of|and) (?:use|service|conditions)|'
    r'all rights reserved|skip to (?:main )?content|sign (?:in|up)|log ?in|'
    r'subscribe|newsletter|share (?:this|on)|follow us|back to top|'
    r'powered by|site ?map|javascript|print this page|leave a (?:comment|reply)|'
    r'advertisement)\b|© ?(?:19|20)[0-9]{2}\b)',
    re.IGNORECASE,
)
_BAR = '|•·»\u203a→>'  # what stands between the items of a menu
_MENU = re.compile(rf'(?:[^{_BAR}]{{1,30}}[{_BAR}]){{2,64}}[^{_BAR}]{{0,30}}')


def boilerplate(*, gutenberg: bool, edges: int, repeated: int | None) -> steps.Step:
    """Cuts what is not the text; what is empty then is rejected as 'empty'.

    gutenberg: the header and licence of Project Gutenberg, of old and new editions.
    edges: of that many lines at the start and at the end, those of at most 20 words
        that speak of cookies, rights and signing in, or are menus: 'Home | News | Us'.
    repeated: a line of one to three words without an end mark that stands there so
        often ('Reply'); None keeps them.
    """
    if edges < 0 or (repeated is not None and repeated < 2):
        raise command.UserError(
            f'boilerplate has edges={edges} and repeated={repeated}; edges needs to be '
            '>= 0, and repeated >= 2 or None.'
        )

    def change(text: str) -> str:
        if gutenberg and 'gutenberg' in text[:20_000].lower():
            text = _gutenberg(text)
        if edges == 0 and repeated is None:
            return text
        lines = text.split('\n')
        often: set[str] = set()
        if repeated is not None:
            counts = Counter(line.strip() for line in lines if len(line) < 64)
            often = {k for k, n in counts.items() if n >= repeated and _label(k)}
        inside = range(edges, len(lines) - edges)
        kept = [
            line
            for place, line in enumerate(lines)
            if not (often and line.strip() in often)
            and (place in inside or not _notice(line))
        ]
        return text if len(kept) == len(lines) else '\n'.join(kept).strip('\n')

    return _cleaner(change)


def _gutenberg(text: str) -> str:
    start = max((match.end() for match in _START.finditer(text[:40_000])), default=0)
    end = _END.search(text, max(start, len(text) - 40_000))
    body = text[start : end.start() if end else len(text)]
    produced = _PRODUCED.match(body) if start else None
    return body[produced.end() if produced else 0 :].strip('\n')


def _label(line: str) -> bool:
    words = line.split()
    return 1 <= len(words) <= 3 and line[0].isalpha() and line[-1] not in '.!?"”:;,{}()'


def _notice(line: str) -> bool:
    short = len(line) < 200 and len(line.split()) <= 20
    return short and bool(_NOTICE.search(line) or _MENU.fullmatch(line.strip()))


def length(*, least: int, most: int | None) -> steps.Step:
    """Rejects documents of fewer or more characters: 'short' and 'long'."""
    if most is not None and most < least:
        raise command.UserError(
            f'length has least={least} and most={most}: no document is left.'
        )

    def step(document: documents.Document) -> steps.Result:
        size = len(document.whole)
        if size < least:
            return documents.Reject('short', float(size))
        if most is not None and size > most:
            return documents.Reject('long', float(size))
        return document

    return step

"""A page of HTML, safe by construction: every str is escaped unless it is `Html`."""

from collections.abc import Iterable, Sequence
import html

# Control characters are not allowed in HTML; each has a picture in Unicode.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in '\t\n'}


class Html(str):
    """Markup, which goes into a page as it is."""


def text(value: object) -> Html:
    """A value as text of a page: what it holds of markup is shown, not obeyed."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).translate(_PICTURES)))


def join(children: Iterable[object]) -> Html:
    return Html(''.join(map(text, children)))


def element(name: str, *children: object, **attributes: object) -> Html:
    """A tag with its children; `class_` is class, `stroke_width` is stroke-width."""
    written = ''.join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
    )
    return Html(f'<{name}{written}>{join(children)}</{name}>')


def section(anchor: str, title: str, *children: object) -> Html:
    """A part of the page, with a heading; links point at its anchor."""
    return element('section', element('h2', title), *children, id=anchor)


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], class_: str = ''
) -> Html:
    """A table whose columns are numbers, aligned right, where a head ends in '#'."""
    return grouped(head, [('', rows)], class_)


def grouped(
    head: Sequence[object],
    groups: Iterable[tuple[object, Iterable[Sequence[object]]]],
    class_: str = 'grouped',
) -> Html:
    """A table in parts, each of (what stands over its rows, its rows)."""
    names = [str(name) for name in head]
    classes = ['number' if name.endswith('#') else 'words' for name in names]

    def line(kind: str, cells: Sequence[object]) -> Html:
        return element(
            'tr',
            *(
                element(kind, cell, class_=class_)
                for cell, class_ in zip(cells, classes, strict=True)
            ),
        )

    def body(over: object, rows: Iterable[Sequence[object]]) -> Html:
        title = element('tr', element('td', over, colspan=len(names))) if over else ''
        return element('tbody', title, *(line('td', row) for row in rows))

    made = element(
        'table',
        element('thead', line('th', [name.rstrip('#') for name in names])),
        *(body(over, rows) for over, rows in groups),
    )
    return element('div', made, class_=f'scroll {class_}'.strip())


def document(title: str, *children: object) -> str:
    """The whole page; it asks for nothing from anywhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f'<main>{join(children)}</main>\n</body>\n</html>\n'
    )


_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #22262b; --soft: #69707a;
  --line: #e4e2dd; --one: #9db4cf; --two: #b4481e; --good: #23754a; --bad: #a8382b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e3e4e6; --soft: #969da6;
    --line: #2e3238; --one: #5b7594; --two: #f0956a; --good: #6fc795; --bad: #f08a7c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif;
}
main { max-width: 64rem; margin: 0 auto; padding: 3rem 1.5rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3.5rem 0 .75rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { max-width: 44rem; margin: .5rem 0; }
nav { margin: 1.25rem 0 0; color: var(--soft); }
nav a { margin-right: 1.25rem; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .2em; }
.soft, figcaption, dt, th { color: var(--soft); }
small, .small { font-size: .875rem; }
code, pre { font: .875rem/1.55 ui-monospace, 'SF Mono', Menlo, Consolas, monospace; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .9rem 1.1rem; margin: .75rem 0; white-space: pre-wrap;
  overflow-wrap: anywhere;
}
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th { font-weight: 500; font-size: .8125rem; text-align: left; vertical-align: bottom; }
th, td { padding: .5rem 1.25rem .5rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.measures th:nth-child(1) { width: 30%; }
.measures th:nth-child(2) { width: 12%; }
.grouped tr:first-child td { padding-top: 1.25rem; border: 0; }
.grouped tr + tr td:first-child { color: var(--soft); white-space: nowrap; }
.grouped td:nth-child(2) { width: 100%; }
.grouped td:nth-child(2), .grouped b { white-space: pre-wrap; overflow-wrap: anywhere; }
.grouped small { white-space: normal; }
td small { display: block; color: var(--soft); font-size: .8125rem; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
dl {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr));
  gap: .9rem 2rem; margin: 1rem 0 0;
}
dt { font-size: .8125rem; }
dd { margin: 0; overflow-wrap: anywhere; }
figure {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  margin: 1rem 0; padding: .9rem 1.1rem .6rem; min-width: 0;
}
figcaption {
  font-size: .875rem; display: flex; flex-wrap: wrap; gap: .1rem 1.25rem;
  margin-bottom: .4rem;
}
figcaption b { color: var(--ink); font-weight: 600; margin-right: auto; }
figcaption small:empty { display: none; }
.key { white-space: nowrap; }
.key i {
  display: inline-block; width: 1rem; border-top: 2.5px solid;
  vertical-align: .25em; margin-right: .4rem;
}
.small-multiples {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr));
}
.small-multiples figure { margin: 0; display: flex; flex-direction: column; }
.small-multiples small { flex-basis: 100%; }
.small-multiples svg { margin-top: auto; }
.small-multiples .key { margin-right: auto; }
.small-multiples .key:nth-last-child(2) { margin-right: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
.one { color: var(--one); stroke: var(--one); }
.two { color: var(--two); stroke: var(--two); }
svg circle { fill: var(--card); stroke-width: 2; }
.samples { display: grid; gap: 1rem; margin: .75rem 0; }
.sample {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .9rem 1.1rem; overflow-wrap: anywhere;
}
.sample p { max-width: none; margin: .15rem 0 .6rem; white-space: pre-wrap; }
.sample p:last-child { margin-bottom: 0; }
@media (max-width: 40rem) {
  .summary tr { display: grid; grid-template-columns: repeat(3, 1fr); }
  .summary td:first-child { grid-column: 1 / -1; border: 0; padding-bottom: 0; }
  .summary th:first-child { display: none; }
  th, td { padding-right: .75rem; }
}
@media print { body { background: none; } figure, .sample { break-inside: avoid; } }
"""

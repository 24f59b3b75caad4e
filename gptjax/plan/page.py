"""Plans drawn as one HTML file: what fills the memory, what takes the time."""

from collections.abc import Mapping
import dataclasses
from html import escape

from gptjax.plan import plans, report, targets

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #6a6f78; --line: #d9dce1;
  --ground: #fff; --a: #2f6fb5; --b: #6aa3dc; --c: #b3cfec; --d: #d9963b;
  --e: #ecc890; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #9aa0aa;
  --line: #363a41; --ground: #17191c; --a: #5b97d6; --b: #3f73a8; --c: #2c4e71;
  --d: #d9963b; --e: #85602b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--ground); max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem }
p, .key { color: var(--soft) } .key { font-size: .9em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .8rem .25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-weight: 400 }
td:first-child, th:first-child { text-align: left }
th { color: var(--soft); font-size: .85em } .wide { overflow-x: auto }
.bar { display: flex; height: 1.4rem; background: var(--line); border-radius: 3px;
  overflow: hidden; margin: .2rem 0 } .bar i { display: block }
.key i { display: inline-block; width: .7em; height: .7em; margin: 0 .3em 0 .9em }
"""
_COLOURS = ('a', 'b', 'c', 'd', 'e')


def page(made: plans.Plans) -> str:
    """The whole file; it needs nothing else."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>Plan: {escape(made.name)}</title>'
        f'<style>{_STYLE}</style><h1>{escape(made.name)}</h1>'
        f'<p>{escape(report.job(made))}</p>',
        _table(report.COLUMNS, [report.row(one) for one in made.plans]),
        *map(_one, made.plans),
    ]
    return '\n'.join(parts) + '\n'


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return f'<tr>{"".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)}</tr>'

    lines = [line(head, 'th'), *(line(row, 'td') for row in rows)]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _one(plan: plans.Plan | plans.Refused) -> str:
    if isinstance(plan, plans.Refused):
        return f'<h2>{escape(plan.target)}</h2><p>{escape(plan.why)}</p>'
    found, chip = plan.found, plan.found.target.chip
    price, source = targets.price(found.target)
    paid = f' ${price:.2f} for a chip and an hour: {source}.' if price else ''
    kinds = {
        f'{kind} {size / targets.GIB:.2f} GiB': size
        for kind, size in dataclasses.asdict(found.bytes).items()
    }
    spent = {
        f'{name} {seconds * 1e3:,.0f} ms': seconds
        for name, seconds in report.spent(plan).items()
    }
    return (
        f'<h2>{escape(found.target.name)}: {escape(str(found.layout))}</h2>'
        f'<p>{escape(plan.note)}.{escape(paid)}</p>'
        f'<p><code>{escape(" ".join(report.as_json(plan)["flags"]))}</code></p>'
        + _bar('Memory of a device', kinds, chip.memory)
        + _bar('Time of a step', spent, sum(spent.values()))
    )


def _bar(name: str, parts: Mapping[str, float], whole: float) -> str:
    """Parts of a whole, side by side, and what they are."""
    pairs = [
        (f'var(--{colour})', what, size)
        for colour, (what, size) in zip(_COLOURS, parts.items(), strict=False)
        if size
    ]
    bar, key = '', ''
    for colour, what, size in pairs:
        style, what = f'background:{colour}', escape(what)
        bar += f'<i style="{style};width:{size / whole:.2%}" title="{what}"></i>'
        key += f'<i style="{style}"></i>{what}'
    return f'<div class="bar">{bar}</div><div class="key">{escape(name)}:{key}</div>'

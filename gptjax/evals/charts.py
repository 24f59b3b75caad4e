"""Line charts as inline SVG: axes, ticks, a legend, and nothing from outside."""

from collections.abc import Sequence
import dataclasses
import math

from gptjax.evals import page

Point = tuple[float | int, float | int]  # step, value
_APART = 2  # pixels from point to point of a line: closer ones cannot be told apart


@dataclasses.dataclass(frozen=True)
class Series:
    """One line; `colour` is a class of the page's style: 'one' or 'two'."""

    name: str
    points: Sequence[Point]
    colour: str
    dots: bool = False  # a circle on each point, with its values in a tooltip


@dataclasses.dataclass(frozen=True)
class _Scale:
    """From values to pixels along one axis."""

    low: float | int
    high: float | int
    start: int
    end: int

    def __call__(self, value: float | int) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float | int, high: float | int, most: int) -> list[float]:
    """At most `most` + 1 round numbers (1, 2 or 5 times 10^k) from low to high."""
    rough = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float | int) -> str:
    """A number for an axis or a legend: 12.3k, 1.5M, 0.0003."""
    for least, unit, name in ((1e9, 1e9, 'G'), (1e6, 1e6, 'M'), (1e4, 1e3, 'k')):
        if abs(value) >= least:
            return f'{value / unit:.4g}{name}'
    return f'{value:.4g}'.replace('e-0', 'e-')


def figure(
    title: str,
    series: Sequence[Series],
    width: int,
    height: int,
    from_zero: bool = False,
    unit: str = '',
) -> page.Html:
    """A chart against the step, with its legend above; '' where nothing is finite.

    width, height: of the picture, in pixels at its natural size. unit: what the values
    are, beside the title.
    """
    finite = [
        dataclasses.replace(
            line, points=[p for p in line.points if all(map(math.isfinite, p))]
        )
        for line in series
    ]
    drawn = [line for line in finite if line.points]
    if not drawn:
        return page.Html('')
    x, y = _scales([p for line in drawn for p in line.points], width, height, from_zero)
    last = ', '.join(f'{line.name} {_end(line)}' for line in drawn)
    picture = page.element(
        'svg',
        _axes(x, y),
        *(_line(line, x, y) for line in drawn),
        viewBox=f'0 0 {width} {height}',
        role='img',
        aria_label=f'{title} against the step; at the end: {last}',
    )
    keys = [
        page.element(
            'span',
            page.element('i', class_=line.colour) if line.name else '',
            f'{line.name} {_end(line)}'.strip(),
            class_='key',
        )
        for line in drawn
    ]
    name, meaning = page.element('b', title), page.element('small', unit)
    parts = [name, meaning, *keys] if len(keys) > 1 else [name, *keys, meaning]
    caption = page.element('figcaption', *parts)
    return page.element('figure', caption, picture)


def _end(line: Series) -> str:
    """The last value, in three digits where there is a whole legend."""
    value = line.points[-1][1]
    return short(float(f'{value:.3g}')) if line.name else short(value)


def _scales(
    points: Sequence[Point], width: int, height: int, from_zero: bool
) -> tuple[_Scale, _Scale]:
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    if from_zero:
        low = min(low, 0.0)
    if low == high == 0:
        high = 1
    elif low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    room = (high - low) * 0.06
    low = low if from_zero and low == 0 else low - room
    left, right = min(xs), max(xs)
    if left == right:
        left, right = left - 1, right + 1
    return (
        _Scale(left, right, 46, width - 8),
        _Scale(low, high + room, height - 24, 6),
    )


def _axes(x: _Scale, y: _Scale) -> page.Html:
    parts: list[page.Html] = []
    for value in ticks(y.low, y.high, 7 if y.start > 200 else 4):
        at = y(value)
        parts += [
            page.element('line', class_='grid', x1=x.start, x2=x.end, y1=at, y2=at),
            page.element('text', short(value), x=38, y=at + 4, text_anchor='end'),
        ]
    marks = ticks(x.low, x.high, max(3, int(x.end - x.start) // 110))
    for place in marks:
        last = place == marks[-1]
        parts.append(
            page.element(
                'text',
                f'step {short(place)}' if last else short(place),
                x=x(place),
                y=y.start + 20,
                text_anchor='end' if x(place) > x.end - 20 else 'middle',
            )
        )
    return page.join(parts)


def _line(line: Series, x: _Scale, y: _Scale) -> page.Html:
    stride = math.ceil(len(line.points) * _APART / (x.end - x.start))
    # Counted from the end, so that the last point is always there.
    points = list(line.points)[::-1][::stride][::-1]
    path = 'M' + 'L'.join(f'{x(step)} {y(value)}' for step, value in points)
    parts = [page.element('path', d=path, class_=line.colour)]
    if line.dots or len(points) == 1:
        parts += [
            page.element(
                'circle',
                page.element('title', f'step {step:,}: {value:.4g}'),
                cx=x(step),
                cy=y(value),
                r=3.5,
                class_=line.colour,
            )
            for step, value in points
        ]
    return page.join(parts)

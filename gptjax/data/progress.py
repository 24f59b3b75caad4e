"""How far a build is, on standard error: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import sys


@contextlib.contextmanager
def stage(
    name: str, total: int | None = None, what: str = 'documents'
) -> Iterator[Callable[[int], None]]:
    """Shows a stage while it runs; the function given tells of `n` more of `what`."""
    done = 0
    if not sys.stderr.isatty():

        def count(n: int) -> None:
            nonlocal done
            done += n

        yield count
        print(f'{name}: {done:,} {what}', file=sys.stderr)
        return
    import rich.console
    import rich.progress

    columns = (
        rich.progress.TextColumn('{task.description:24}'),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total)
        yield lambda n: bar.advance(task, n)
        bar.update(task, total=bar.tasks[task].completed)


def say(line: str) -> None:
    """One line on standard error."""
    print(line, file=sys.stderr)

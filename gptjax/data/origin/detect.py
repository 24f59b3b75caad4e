"""The licence that a page or a text names, with what names it."""


def from_text(text: str) -> tuple[str, str] | None:
    """(SPDX licence, the words that say so), or None where nothing says one."""
    del text
    return None


def from_html(html: str) -> tuple[str, str] | None:
    """(SPDX licence, what says so) of a page, or None where nothing says one."""
    del html
    return None

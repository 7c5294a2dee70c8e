"""The parts of a README that a command writes, between two comments that nobody sees."""

from runtime.errors import UserError


def between_markers(text: str, start: str, end: str, written: str) -> str:
    """`text` with `written` between the markers, whatever stood there. Raises UserError when they are not there.

    >>> between_markers("a <!-- x --> old <!-- end --> b", "<!-- x -->", "<!-- end -->", "new").splitlines()
    ['a <!-- x -->', '', 'new', '', '<!-- end --> b']
    """
    before, found_start, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise UserError(f"the README must hold {start} and {end}, got neither or one of them")
    return f"{before}{start}\n\n{written}\n\n{end}{after}"

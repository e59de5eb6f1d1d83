"""The one error of this reader: a sentence that names the object and what is wrong with it."""


class Broken(Exception):
    """Something is not as docs/format.md says, or cannot be read with the key at hand."""


def need(truth, trouble):
    """Ends the program with `trouble` unless `truth`."""
    if not truth:
        raise Broken(trouble)

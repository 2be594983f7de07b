"""The one exception readers see: a sentence that names the file, key or parameter at fault."""


class BadInput(ValueError):
    """Bad input, said in one sentence: what was at fault, what was expected, what was found."""

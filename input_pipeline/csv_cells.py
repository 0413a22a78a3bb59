"""Names of files and classes in CSV tables that people open with a spreadsheet program.

Spreadsheets run a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return as a formula, whoever named the
file. Such a cell is written with an apostrophe in front, which makes it a text (OWASP, "CSV Injection").
"""

_FORMULA_STARTS = tuple("=+-@\t\r'")  # the apostrophe itself, so that every name is read as it was


def escape_formula(name: str) -> str:
    """Escapes a name so that spreadsheets do not run it as a formula, as a cell of a table with commas."""
    return f"'{name}" if name.startswith(_FORMULA_STARTS) else name


def unescape_formula(cell: str) -> str:
    """Returns the name that `escape_formula` escaped."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_STARTS) else cell

import csv
import io

import pytest

from input_pipeline.csv_cells import escape_formula, unescape_formula


def test_an_apostrophe_that_nobody_added_stays():
    assert unescape_formula("'x.png") == "'x.png"


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'quoted", "''", "\t=1", "'", "MEL", "a=b", ""]
)
def test_no_cell_begins_a_formula_and_names_are_read_as_they_were(name):
    csv.writer(text := io.StringIO()).writerow([escape_formula(name)])
    [[cell]] = csv.reader(io.StringIO(text.getvalue())) if name else [[""]]
    assert not cell.startswith(tuple("=+-@\t\r"))
    assert unescape_formula(cell) == name
    assert (cell == name) == (not name.startswith(tuple("=+-@\t\r'")))

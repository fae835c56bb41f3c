"""What a report asks of the database."""

from __future__ import annotations

import pytest

from esper.errors import RunNotFound
from esper.nissa.report.gather import gather


def test_an_unknown_run_is_one_line_with_a_hint():
    def ask(sql, parameters, form):
        if "GROUP BY key" in sql:
            return b'{"meta": [{"name": "key", "type": "String"}], "data": [{"key": "digits-1"}]}'
        return b'{"meta": [{"name": "events", "type": "UInt64"}], "data": [{"events": "0", "steps": 0}]}'

    with pytest.raises(RunNotFound, match=r"no run 'digits-2' in the database; did you mean digits-1\?"):
        gather(ask, "digits-2")

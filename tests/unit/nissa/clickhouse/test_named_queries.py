"""Named queries: their files, their parameters, their defaults."""

from __future__ import annotations

import pytest

from esper.errors import UsageError
from esper.nissa.clickhouse.named_queries import NamedQuery, all_named, named, parsed

TEXT = """-- How many?
-- run='' of this run alone
-- least=3 of them
-- What the answer means,
-- in two lines.
-- depth='at the top'
WITH 1 AS one -- a=5 is no default here
SELECT {run:String}, {least:UInt32}, {depth:String}, {missing:UInt8}
"""


def test_a_file_says_what_is_asked_and_what_its_parameters_are() -> None:
    query = parsed("how_many.sql", TEXT)
    assert (query.name, query.title) == ("how_many", "How many?")
    assert query.about == "What the answer means, in two lines."
    assert query.parameters == {"run": "String", "least": "UInt32", "depth": "String", "missing": "UInt8"}
    assert query.defaults == {"run": "", "least": "3", "depth": "at the top"}
    assert query.sql.startswith("WITH 1 AS one")


def test_a_parameter_is_described_with_its_default() -> None:
    query = parsed("how_many.sql", TEXT)
    assert [query.described(name) for name in query.parameters] == ["run", "least=3", "depth=at the top", "missing"]


def test_what_is_given_goes_before_defaults() -> None:
    query = parsed("how_many.sql", TEXT)
    expected = {"run": "a", "least": "3", "depth": "at the top", "missing": "1"}
    assert query.filled({"run": "a", "missing": "1"}) == expected


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(UsageError, match=r"^the query how_many needs --param missing=\.\.\.$"):
        parsed("how_many.sql", TEXT).filled({})


def test_an_unknown_parameter_is_named_with_those_there_are() -> None:
    line = "^the query how_many has no parameter ru; it has run, least, depth, missing$"
    with pytest.raises(UsageError, match=line):
        parsed("how_many.sql", TEXT).filled({"ru": "a", "missing": "1"})
    with pytest.raises(UsageError, match=r"^the query one has no parameter run; it has none$"):
        parsed("one.sql", "-- One?\nSELECT 1").filled({"run": ""})


def test_an_unknown_query_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"^there is no query named 'seed_survivl'; did you mean seed_survival\?$"):
        named("seed_survivl")
    with pytest.raises(UsageError, match=r"^there is no query named 'x'; esper sql --named lists them$"):
        named("x")


def test_the_questions_that_people_have() -> None:
    assert [query.name for query in all_named()] == [
        "adaptation_success",
        "architecture_diversity",
        "cost_per_seed",
        "decision_latency",
        "kernel_compile_latency",
        "loss_around_germination",
        "recovery_times",
        "seed_survival",
        "slowest_sites",
        "training_overhead",
    ]


@pytest.mark.parametrize("query", all_named(), ids=lambda query: query.name)
def test_every_query_says_what_it_answers_and_needs_no_parameter(query: NamedQuery) -> None:
    assert query.title.endswith("?")
    assert query.about
    assert query.filled({}).keys() == query.parameters.keys() == query.defaults.keys()
    assert query.parameters["run"] == "String"
    assert query.defaults["run"] == ""

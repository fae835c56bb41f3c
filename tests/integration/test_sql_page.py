"""What docs/sql.md asks can be asked, and gives the columns that it shows."""

from __future__ import annotations

import json
import re

import pytest

from esper.nissa.clickhouse.named_queries import named
from esper.nissa.clickhouse.questions import Questions
from tests.support.paths import ROOT
from tests.support.services.warehouse import Database

PAGE = (ROOT / "docs" / "sql.md").read_text("utf-8")
ASKED = re.findall(r"^\$ esper sql (.*?)\n +┌─(.*?)┐\n", PAGE, re.MULTILINE | re.DOTALL)
TABLES = re.findall(
    r"^\| ((?:`\w+`(?:, )?)+) \| [^|]+ \|$", PAGE.partition("| tables and views |")[2].partition("\n\n")[0], re.M
)


def test_there_are_five_questions_and_tables() -> None:
    assert len(ASKED) >= 5
    assert len(TABLES) >= 5


@pytest.mark.parametrize(("question", "header"), ASKED)
def test_a_question_of_the_page_gives_the_columns_that_it_shows(question: str, header: str, database: Database) -> None:
    given = {"run": "a"}
    if name := re.search(r"--named (\w+)", question):
        query = named(name[1])
        sql, given = query.sql, query.filled(given)
    else:
        sql = question.partition('"')[2].rpartition('"')[0]
        given = given if "{run:" in sql else {}
    answer = json.loads(Questions(database.url).answer(sql, given, "json"))
    assert [column["name"] for column in answer["meta"]] == [name.strip("─") for name in header.split("┬")]


def test_the_tables_of_the_page_are_there(database: Database) -> None:
    told = {name for row in TABLES for name in re.findall(r"\w+", row)}
    assert told <= {name for (name,) in database.rows("SHOW TABLES")}

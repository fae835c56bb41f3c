"""What a question may not do: reach files or other machines, by whatever way round; and what it may all the same."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from esper.errors import AnalyticsError, EsperError, UsageError
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.clickhouse.warehouse import connect
from tests.support.services.warehouse import Database, new_database

SECRET = "hunter2"
WAYS = {
    "a file is a table": "SELECT * FROM `{file}`",
    "a file is a table of the engine's own database": "SELECT * FROM default.`{file}`",
    "files are a table": "SELECT * FROM default.`{folder}/*.csv`",
    "a file is a quoted table": "SELECT * FROM '{file}'",
    "a file is what IN looks into": "SELECT 1 IN default.`{file}`",
    "a file is described": "DESCRIBE TABLE default.`{file}`",
    "a file is asked for its columns": "SELECT if(hasColumnInTable('default', '{file}', 'c1'), '{secret}', '')",
    "a file is looped over": "SELECT * FROM loop('default', '{file}') LIMIT 1",
    "a function is applied": "SELECT COLUMNS('c') APPLY(file) FROM (SELECT '{file}' AS c)",
    "a function is applied without parentheses": "SELECT COLUMNS('c') APPLY `file` FROM (SELECT '{file}' AS c)",
    "a function is handed over": "SELECT arrayMap(file, ['{file}'])",
    "a function is handed over quoted": "SELECT arrayMap(`fi\\x6ce`, ['{file}'])",
    "a lambda calls it": "SELECT arrayMap(x -> FILE(x), ['{file}'])",
    "a column is replaced by it": "SELECT * REPLACE(file(c) AS c) FROM (SELECT '{file}' AS c)",
    "a window holds it": "SELECT count() OVER (ORDER BY file('{file}'))",
    "no SELECT is needed": "file('{file}')",
    "a quoted name hides it from whoever looks for quotes": "SELECT 1 AS `a'`, file('{file}'), 2 AS `b'`",
    "a doubled quote hides it": 'SELECT 1 AS "a""\'", file(\'{file}\'), 2 AS "b\'"',
    "values are computed": "SELECT * FROM values('x String', file('{file}'))",
    "a format computes values": "SELECT * FROM format(Values, 'x String', $$(file('{file}'))$$)",
    "an explained question": "EXPLAIN SELECT file('{file}')",
    "what is explained goes into a file": "EXPLAIN SELECT 1 INTO OUTFILE '{folder}/made'",
    "a setting goes into a file": "SET readonly = 0 INTO OUTFILE '{folder}/made'",
    "a use goes into a file": "USE system INTO OUTFILE '{folder}/made'",
    "an insertion goes into a file": "INSERT INTO runs (run_id) SELECT 'a' INTO OUTFILE '{folder}/made'",
    "a view goes into a file": "CREATE VIEW v AS SELECT 1 INTO OUTFILE '{folder}/made'",
    "an answer is appended to a file": "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{folder}/made' APPEND AND STDOUT",
    "tables are shown to a file": "SHOW TABLES INTO OUTFILE '{folder}/made' TRUNCATE",
    "a URL": "SELECT * FROM url('{url}', 'CSV', 'x String')",
    "a URL is a table": "SELECT * FROM `{url}`",
    "a URL behind a view": "SELECT * FROM view(SELECT * FROM url('{url}', 'CSV', 'x String'))",
    "a URL that is explained": "EXPLAIN SELECT * FROM url('{url}')",
    "a URL that is described": "DESCRIBE url('{url}')",
    "a URL in a loop": "SELECT * FROM loop(url('{url}', 'CSV', 'x String')) LIMIT 1",
    "a bucket": "SELECT * FROM gcs('{url}', 'CSV', 'x String')",
    "a blob": "SELECT * FROM azureBlobStorage('{url}', 'c', 'b', 'a', 'YQ==', 'CSV', 'auto', 'x String')",
    "a lake": "SELECT * FROM icebergS3('{url}')",
    "a lake in a folder": "SELECT * FROM icebergLocal('{folder}')",
    "another machine": "SELECT * FROM remote('127.0.0.1:{port}', system.one)",
    "a cluster": "SELECT * FROM cluster('default', system.one)",
    "another database": "SELECT * FROM mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "a database file": "SELECT * FROM sqlite('{folder}/log.db', 'records')",
    "a program": "SELECT * FROM executable('cat {file}', 'CSV', 'x String')",
    "the program that asks": "SELECT * FROM python('secret')",
    "a text that is a question": "SELECT * FROM eval('SELECT file(''{file}'')')",
    "a model that is asked": "SELECT aiGenerate('{url}', 'x')",
}
WRITING = {
    "values that are computed": "INSERT INTO mine VALUES (file('{file}'))",
    "values that are computed as a format": "INSERT INTO mine FORMAT Values (file('{file}'))",
    "a setting has values computed": (
        "INSERT INTO mine SETTINGS input_format_values_interpret_expressions = 1 VALUES (file('{file}'))"
    ),
    "a second statement behind values": "INSERT INTO mine VALUES ('a'); INSERT INTO mine SELECT file('{file}')",
    "a second statement behind explained values": "EXPLAIN INSERT INTO mine VALUES ('a'); SELECT file('{file}')",
    "a session's setting": "SET input_format_values_interpret_expressions = 1",
    "a file that is emptied": "TRUNCATE TABLE default.`{file}`",
    "a file that is dropped": "DROP TABLE default.`{file}`",
    "a file that is added to": "INSERT INTO default.`{file}` SELECT 'a'",
    "a disk": (
        "CREATE TABLE t (x Int8) ENGINE = MergeTree ORDER BY x "
        "SETTINGS disk = disk(type = local, path = '{folder}/made/')"
    ),
    "a disk added later": "ALTER TABLE runs MODIFY SETTING disk = disk(type = local, path = '{folder}/made/')",
    "a table in a file": "CREATE TABLE t (x String) ENGINE = File(CSV, '{file}')",
    "a temporary table": "CREATE TEMPORARY TABLE t (x String) ENGINE = URL('{url}', CSV)",
    "a table without parentheses": "CREATE TABLE t (x String) ENGINE File",
    "a table made by a function": "CREATE TABLE t AS file('{file}')",
    "a table like a file": "CREATE TABLE t AS default.`{file}`",
    "a view's inner table": "CREATE MATERIALIZED VIEW t ENGINE = File(CSV) AS SELECT 1 AS x",
    "a default": "CREATE TABLE t (x String DEFAULT file('{file}')) ENGINE = Memory",
    "a later default": "ALTER TABLE runs ADD COLUMN x String DEFAULT file('{file}')",
    "a mutation": "ALTER TABLE runs UPDATE error = file('{file}') WHERE 1",
    "a constraint": "ALTER TABLE runs ADD CONSTRAINT c CHECK file('{file}') = ''",
    "an index": "ALTER TABLE runs ADD INDEX i file('{file}') TYPE minmax",
    "a deletion": "DELETE FROM runs WHERE file('{file}') = ''",
    "a function of one's own": "CREATE FUNCTION mine AS x -> file(x)",
    "a dictionary": (
        "CREATE DICTIONARY d (x String) PRIMARY KEY x SOURCE(URL(url '{url}' format 'CSV')) "
        "LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)"
    ),
    "a dictionary asks a question": (
        "CREATE DICTIONARY d (x String) PRIMARY KEY x SOURCE(CLICKHOUSE(query 'SELECT file(''{file}'')')) "
        "LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)"
    ),
    "a database of files": "CREATE DATABASE d ENGINE = Filesystem('/')",
    "a database of backups": "CREATE DATABASE d ENGINE = Backup('d', File('{folder}'))",
    "a database elsewhere": "CREATE DATABASE d ENGINE = DataLakeCatalog('{url}')",
    "a database on another machine": "CREATE DATABASE d ENGINE = MySQL('127.0.0.1:{port}', 'a', 'b', 'c')",
    "a table that was a file": "ATTACH TABLE t FROM '{folder}' (x String) ENGINE = MergeTree ORDER BY x",
    "two statements in parallel": "DROP TABLE IF EXISTS a PARALLEL WITH DROP TABLE IF EXISTS b",
    "a backup": "BACKUP TABLE runs TO File('{folder}/made')",
    "the engine itself": "SYSTEM RELOAD DICTIONARIES",
    "who may do what": "CREATE USER mallory",
    "what is remembered": "EXPLAIN AST INSERT INTO mine SELECT 1 INTO OUTFILE '{folder}/made'",
}


class Web:
    """Counts what reaches it from the engine."""

    def __init__(self) -> None:
        asked = self.asked = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(f"{SECRET}\n".encode())

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with new_database(tmp_path_factory.mktemp("asked") / "clickhouse") as made:
        made.client.command("CREATE TABLE mine (x String) ENGINE = Memory")
        yield made


@pytest.fixture(scope="module")
def questions(database: Database) -> Questions:
    return Questions(database.url)


def ask(questions: Questions, way: str, folder: Path, web: Web, write: bool) -> None:
    """Ask it and see to it that nothing comes of it."""
    file = folder / "secret.csv"
    file.write_text(f"{SECRET}\n")
    before = sorted(each.name for each in folder.iterdir())
    web.asked.clear()
    names = {"file": str(file), "folder": str(folder), "url": f"http://127.0.0.1:{web.port}/x.csv", "secret": SECRET}
    query = way
    for name, value in {**names, "port": str(web.port)}.items():
        query = query.replace(f"{{{name}}}", value)
    with pytest.raises((UsageError, AnalyticsError)) as caught:
        questions.answer(query, {}, "csv", write)
    assert len(str(caught.value).splitlines()) == 1
    assert SECRET not in str(caught.value).replace(query, "")
    assert file.read_text() == f"{SECRET}\n"
    assert sorted(each.name for each in folder.iterdir()) == before
    assert web.asked == []
    assert questions.answer("SELECT count() FROM mine", {}, "csv") == b'"count()"\n0\n'


@pytest.mark.parametrize("write", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("way", WAYS)
def test_there_is_no_way_round_to_files_and_other_machines(
    way: str, write: bool, questions: Questions, tmp_path: Path, web: Web
) -> None:
    ask(questions, WAYS[way], tmp_path, web, write)


@pytest.mark.parametrize("way", WRITING)
def test_who_may_write_reaches_the_database_alone(way: str, questions: Questions, tmp_path: Path, web: Web) -> None:
    ask(questions, WRITING[way], tmp_path, web, write=True)


def test_a_parameter_is_no_way_round(questions: Questions, tmp_path: Path) -> None:
    file = tmp_path / "secret.csv"
    file.write_text(SECRET)
    path = ", ".join(map(str, str(file).encode()))
    tried = [
        ("SELECT arrayMap({f:Identifier}, ['" + str(file) + "'])", {"f": "file"}),
        ("SELECT arrayMap({f:Identifier}, ['" + str(file) + "'])", {"f": "FILE"}),
        ("SELECT * FROM {t:Identifier}", {"t": str(file)}),
        ("SELECT * FROM default.{t:Identifier}", {"t": str(file)}),
        ("SELECT '%(a)s'", {"a": f" || file(char({path})) || "}),
        ("SELECT '%(a)s' -- {a:", {"a": f" || file(char({path})) || "}),
        ("SELECT '%(a)s' -- {b:String}", {"a": f" || file(char({path})) || "}),
        ("SELECT $a$", {"$a$": f"file('{file}')"}),
    ]
    for query, parameters in tried:
        for write in (False, True):
            with pytest.raises(EsperError) as caught:
                questions.answer(query, parameters, "csv", write)
            assert SECRET not in str(caught.value)


ALLOWED = {
    "SELECT format('{} {}', 'a', 'b') AS x": b'"x"\n"a b"\n',
    "SELECT 'url(''a'') INTO OUTFILE' AS x -- file('x')": b'"x"\n"url(\'a\') INTO OUTFILE"\n',
    "SELECT 1 AS url, 2 AS s3, 3 AS settings WHERE url = 1 AND settings = 3": b'"url","s3","settings"\n1,2,3\n',
    "SELECT count() AS x FROM runs AS source WHERE run_id IN (SELECT key FROM events)": b'"x"\n0\n',
    "WITH a AS (SELECT 1 AS x) SELECT x FROM a UNION ALL (SELECT x FROM a)": b'"x"\n1\n1\n',
    "SELECT sum(number) AS x FROM numbers(4)": b'"x"\n6\n',
    "SELECT\t1 AS x\n;": b'"x"\n1\n',
    "EXISTS TABLE runs": b'"result"\n1\n',
    "SELECT currentDatabase() AS x": b'"x"\n"esper"\n',
}


@pytest.mark.parametrize("query", ALLOWED)
def test_what_only_looks_like_a_way_round_is_answered(query: str, questions: Questions) -> None:
    assert questions.answer(query, {}, "csv") == ALLOWED[query]


def test_who_may_write_may_do_all_that_stays_in_the_database(questions: Questions) -> None:
    for statement in (
        "CREATE TABLE t (x String, n UInt8 DEFAULT length(x)) ENGINE = MergeTree ORDER BY x",
        "INSERT INTO t (x) VALUES ('a'), ('file(''b'')')",
        "INSERT INTO t (x) SELECT toString(number) FROM numbers(3)",
        "CREATE VIEW v AS SELECT x FROM t WHERE n > 1",
        "ALTER TABLE t ADD COLUMN z UInt8",
        "ALTER TABLE t UPDATE z = 7 WHERE x = 'a' ",
        "DELETE FROM t WHERE x = '0'",
        "OPTIMIZE TABLE t FINAL",
        "RENAME TABLE t TO u",
        "TRUNCATE TABLE mine",
        "DROP VIEW v",
        "CREATE DATABASE other",
        "CREATE DATABASE another ENGINE = Atomic",
        "KILL QUERY WHERE query_id = 'nobody'",
    ):
        questions.answer(statement, {}, "csv", write=True)
    assert questions.answer("SELECT count() AS x FROM u", {}, "csv") == b'"x"\n4\n'


def test_a_parameter_that_the_question_does_not_have_is_told(questions: Questions) -> None:
    with pytest.raises(UsageError, match=r"no parameter run; .*\{run:String\}"):
        questions.answer("SELECT 1", {"run": "a"}, "csv")


def test_a_wrong_question_is_told_in_the_engines_words(questions: Questions) -> None:
    with pytest.raises(AnalyticsError) as caught:
        questions.answer("SELECT 1 +\nFROM FROM", {}, "csv")
    assert "Syntax error: failed at position" in str(caught.value)
    assert "formatQuery" not in str(caught.value)
    assert str(caught.value).endswith("(SYNTAX_ERROR)")


def test_the_engine_is_asked_once_for_what_it_has(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from clickhouse_connect.driver.client import Client

    asked: list[str] = []
    query = Client.query

    def noting(self: Client, text: str, *args: object, **more: object) -> object:
        asked.append(text)
        return query(self, text, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Client, "query", noting)
    questions = Questions(database.url)
    for number in range(3):
        questions.answer(f"SELECT {number}", {}, "csv", write=number == 2)
    assert sum("system.table_functions" in text for text in asked) == 1


def test_a_database_is_opened_without_the_engines_table_of_all_files(database: Database) -> None:
    again = connect(database.url)
    kept = "SELECT name, engine FROM system.databases WHERE name IN ('default', 'esper') ORDER BY name"
    assert again.query(kept).result_rows == [("default", "Memory"), ("esper", "Atomic")]
    assert database.rows("SELECT currentDatabase()") == [("esper",)]

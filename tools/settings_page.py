"""Writes docs/settings.md from esper/settings.py and esper/connections.py: ``python tools/settings_page.py``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from esper.connections import ClickHouseSettings, KafkaSettings, RegistrySettings
from esper.settings import Section, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Every setting of a run, with its default, the values that it takes, and what it means; and how connections are set up.

This page is made from `esper/settings.py` and `esper/connections.py` by `python tools/settings_page.py`; a test
compares them.

A setting is given as

- `esper.start(settings={"boundary.steps": 100})` in a program (`{"boundary": {"steps": 100}}` says the same),
- `--set boundary.steps=100` to `esper train`,
- `ESPER_BOUNDARY__STEPS=100` in the environment.

What a program or `--set` says counts before the environment, and that before a built-in task's own choice. A run's
settings are on its log, in RunStarted, and a resume takes them from there. [tuning.md](tuning.md) says which to change
when nothing grows.
"""
PLACES = """## Places and connections

These are no part of a run and come from the environment alone, but for the first two, which are options of every
command as well (`--home`, `--log`). Beyond loopback a worker needs `ESPER_WORKER_TOKEN`, `ESPER_WORKER_CERTIFICATE` and
`ESPER_WORKER_KEY`.

| variable | default | meaning |
|---|---|---|
| `ESPER_HOME` | `.esper` | folder of the runs, for the commands |
| `ESPER_LOG` | `sqlite:///HOME/log.db` | the log: that, or `kafka://HOST:PORT,.../PREFIX` ([kafka.md](kafka.md)) |
| `ESPER_ANALYTICS` | the database in HOME | a ClickHouse server, `clickhouse://HOST:PORT/DATABASE` ([sql.md](sql.md)) |
"""
CONNECTIONS = (KafkaSettings, RegistrySettings, ClickHouseSettings)
LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}  # in this order
NAMES = {int: "whole number", float: "number", str: "text"}


def values(field: FieldInfo) -> str:
    """Which values the field takes, in words."""
    if not isinstance(field.annotation, type):
        return ", ".join(f"`{each}`" for each in get_args(field.annotation))
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for name, sign in LIMITS.items()
        for limit in field.metadata
        if getattr(limit, name, None) is not None
    ]
    return " ".join([NAMES[field.annotation], " and ".join(limits)]).strip()


def variables(settings: type[BaseSettings]) -> list[str]:
    """A row for each environment variable that ``settings`` reads."""
    rows = []
    for name, field in settings.model_fields.items():
        variable = field.validation_alias or f"{settings.model_config.get('env_prefix', '')}{name}".upper()
        choices = [f"`{each}`" for each in get_args(field.annotation) if isinstance(each, str)]
        default, more = f"`{field.default}`" if field.default else "none", f" ({', '.join(choices)})" if choices else ""
        rows.append(f"| `{variable}` | {default} | {field.description}{more} |")
    return rows


def page() -> str:
    parts = [HEAD]
    for name, group in Settings.model_fields.items():
        section = group.annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        rows = [
            f"| `{name}.{option}` | `{field.default}` | {values(field)} | {field.description} |"
            for option, field in section.model_fields.items()
        ]
        heading = f"## {name}\n\n| setting | default | values | meaning |\n|---|---|---|---|"
        parts.append("\n".join([heading, *rows, ""]))
    parts.append(PLACES + "".join(f"{row}\n" for each in CONNECTIONS for row in variables(each)))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

"""Every setting, with its meaning and unit. ``ESPER_BOUNDARY__STEPS=50`` or ``--set boundary.steps=50`` sets one.

What ``--set`` says counts before the environment, and that before a built-in task's own choice.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from esper.errors import RunUnusable, UsageError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Values = dict[str, Any]


class Section(BaseModel):
    """A group of settings; numbers are finite, and a name that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BoundarySettings(Section):
    """When training stops for a boundary, and how many sites are measured there."""

    steps: Positive = Field(50, description="steps between two boundaries")
    health_sites: Positive = Field(
        64, description="sites whose health is sampled at a boundary, at most; they take turns"
    )


class Checkpoint(Section):
    """How often checkpoints are taken, and how many are kept."""

    steps: Positive = Field(500, description="steps between two checkpoints, at most; choose about 30 s of training")
    keep: Positive = Field(3, description="committed checkpoints kept besides those still needed")


class LogSettings(Section):
    """How far training may run ahead of a log that is slow, or does not answer."""

    buffer: Positive = Field(64, description="boundaries that training may run ahead of the log")
    patience: float = Field(120.0, gt=0, description="seconds to wait for a log that does not answer")


class Telemetry(Section):
    """Which steps are measured, and how measurements are sent in batches."""

    every: Annotated[int, Field(ge=0)] = Field(1, description="steps between two measured ones; 0 measures none")
    sites: Annotated[int, Field(ge=0)] = Field(20, description="steps between two at which sites are measured; 0: none")
    rows: Positive = Field(5000, description="measurements of a batch, at most")
    seconds: float = Field(2.0, gt=0, description="seconds that a batch takes measurements, at most")
    buffer: Positive = Field(16, description="batches that wait for the log; what comes then is dropped")


class Training(Section):
    """How seeds learn in isolation before their verdict (stage TRAINING)."""

    steps: Positive = Field(300, description="steps of isolated training before the verdict")
    concurrent: Positive = Field(1, description="seeds in TRAINING at once")
    learning_rate: float = Field(2.0, gt=0, description="times the host's learning rate")
    warmup: Positive = Field(50, description="steps over which the learning rate rises to that")


class Blending(Section):
    """How an accepted seed is blended into the host and held before its audit (BLENDING, HOLDING)."""

    steps: Positive = Field(100, description="steps in which alpha rises to 1")
    schedule: Literal["linear", "cosine", "sigmoid"] = Field("cosine", description="how alpha rises")
    concurrent: Annotated[int, Field(ge=1, le=1)] = Field(
        1, description="seeds in BLENDING or HOLDING at once; more needs twins"
    )
    holding_steps: Positive = Field(100, description="steps at full effect before the audit")


class VerdictSettings(Section):
    """What a seed has to prove before it is kept."""

    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of keeping a useless seed, over all verdicts of a run")
    delta: float = Field(0.002, ge=0, description="least gain in mean loss")
    rent: float = Field(1e-7, ge=0, description="least gain in mean loss per added parameter")
    measurements: Annotated[int, Field(ge=2)] = Field(
        5, description="isolated measurements from which the noise is estimated"
    )


class GateSettings(Section):
    """How the held-out gate data are divided and how large they may be."""

    folds: Annotated[int, Field(ge=3)] = Field(10, description="folds of the gate data")
    limit_mb: Positive = Field(512, description="largest gate data held in memory, in MB")


class PolicySettings(Section):
    """Who decides to grow, and how much may grow."""

    name: str = Field("heuristic", description="policy that decides: heuristic, or one that a package brings")
    seeds: Annotated[int, Field(ge=0)] = Field(8, description="seeds germinated in a run, at most; 0 never grows")
    renewal: Annotated[int, Field(ge=0)] = Field(
        20_000, description="steps after which as many seeds may germinate again; 0: never"
    )
    budget: float = Field(1.0, ge=0, description="parameters that seeds may add, as a share of the host's")
    cooldown: Annotated[int, Field(ge=0)] = Field(0, description="steps to wait after a germination")
    warmup: Annotated[int, Field(ge=0)] = Field(100, description="steps before the first germination")
    exploration: Share = Field(0.02, description="probability spread over all allowed actions")
    embargo: Positive = Field(100, description="steps of the first embargo of a site; doubles with each cull there")


class DecisionSettings(Section):
    """Whether the policy runs in the trainer or elsewhere, and how long a boundary waits for it."""

    where: Literal["local", "remote"] = Field("local", description="who decides: the trainer, or a policy elsewhere")
    lag: Positive = Field(1, description="boundaries between the one that a remote policy saw and the one it acts at")
    wait: float = Field(1.0, ge=0, description="seconds that a boundary waits for a remote decision, at most")
    misses: Positive = Field(3, description="decisions missed in a row after which boundaries wait for none")


class Governor(Section):
    """When the run goes back to a checkpoint or gives up, and which losses alarm it."""

    rollbacks: Positive = Field(2, description="rollbacks tolerated within the window")
    window: Positive = Field(200, description="steps in which they are counted")
    spike: float = Field(6.0, gt=0, description="standard deviations above the recent losses that raise an alarm")


BEFORE: dict[str, Values] = {"policy": {"renewal": 0}}
"""What runs did that were begun before there was a setting, where that is not its default."""


class _Environment(EnvSettingsSource):
    """``ESPER_LOG`` names the log's place, not the section ``log``."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in super()._load_env_vars().items() if name != "esper_log"}


class Settings(BaseSettings):
    """All settings of a run. They are part of RunStarted, so that a run can be repeated."""

    model_config = SettingsConfigDict(
        env_prefix="ESPER_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from: what is passed first, then the environment; pydantic's files are not read."""
        return init_settings, _Environment(settings_cls)

    boundary: BoundarySettings = BoundarySettings()
    checkpoint: Checkpoint = Checkpoint()
    log: LogSettings = LogSettings()
    telemetry: Telemetry = Telemetry()
    training: Training = Training()
    blending: Blending = Blending()
    verdict: VerdictSettings = VerdictSettings()
    gate: GateSettings = GateSettings()
    policy: PolicySettings = PolicySettings()
    decision: DecisionSettings = DecisionSettings()
    governor: Governor = Governor()


def log_url(home: str | Path) -> str:
    """The URL of the log where none is named: ``ESPER_LOG``, else the embedded log in the folder ``home``."""
    return os.environ.get("ESPER_LOG") or f"sqlite:///{Path(home) / 'log.db'}"


def settings_from(assignments: Iterable[str] = (), base: Iterable[str] = ()) -> Settings:
    """The settings with ``assignments`` (``path.to.option=value``, the last of a path counts) on top of the
    environment, on top of ``base`` (assignments too), on top of the defaults.

    Raises UsageError for a path that is not there or a value that does not fit.
    """
    values = _nested(base)
    _merge(values, _environment())
    _merge(values, _nested(assignments))
    return _checked(values)


def settings_with(values: Mapping[str, Any]) -> Settings:
    """The settings with ``values`` (``{"boundary": {"steps": 50}}`` or ``{"boundary.steps": 50}``) on top of the
    environment and the defaults. Raises UsageError."""
    merged, paths = _environment(), option_paths()
    for name, value in values.items():
        section, _, option = name.partition(".")
        _merge(merged, {section: {option: value}} if name in paths else {name: value})
    return _checked(merged)


def check_environment() -> None:
    """Raise UsageError for an environment variable that looks like a setting and is none."""
    _environment()


def settings_from_json(text: str) -> Settings:
    """The settings of a run from its RunStarted; the environment has no say. Raises RunUnusable."""
    try:
        recorded = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise RunUnusable(f"the run's settings are no JSON object ({error}); copy its log again, whole") from error
    sections: Values = {}
    for name, field in Settings.model_fields.items():
        try:
            sections[name] = _section(field.annotation).model_validate(BEFORE.get(name, {}) | recorded.get(name, {}))
        except ValidationError as error:
            reason = _first(error, name)
            raise RunUnusable(f"the run's settings are not for this version of Esper: {reason}") from error
    return Settings.model_construct(**sections)


def option_paths() -> dict[str, str]:
    """Every option's path, such as ``boundary.steps``, with its description."""
    return {
        f"{section}.{name}": field.description or ""
        for section, group in Settings.model_fields.items()
        for name, field in _section(group.annotation).model_fields.items()
    }


def _checked(values: Values) -> Settings:
    for name in values:
        if name not in Settings.model_fields:
            raise UsageError(_unknown(name))
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(_first(error)) from error


def _section(annotation: Any) -> type[Section]:
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    return annotation


def _environment() -> Values:
    prefix = "ESPER_"
    single = {f"{prefix}{path.replace('.', '_')}".upper(): path for path in option_paths()}
    for variable in os.environ:
        if variable in single:
            right = f"{prefix}{single[variable].replace('.', '__')}".upper()
            raise UsageError(f"environment variable {variable} sets nothing; did you mean {right}?")
        path = variable.removeprefix(prefix).replace("__", ".").lower()
        if variable.startswith(prefix) and "." in path and path not in option_paths():
            raise UsageError(f"environment variable {variable}: {_unknown(path)}")
    try:
        return _Environment(Settings)()
    except SettingsError as error:
        raise UsageError(f"environment variables {prefix}...: {error}") from error


def _nested(assignments: Iterable[str]) -> Values:
    values: Values = {}
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        path = path.strip()
        if not separator:
            raise UsageError(f"{assignment!r} sets nothing; write path.to.option=value, such as boundary.steps=50")
        if path not in option_paths():
            raise UsageError(_unknown(path))
        section, name = path.split(".")
        values.setdefault(section, {})[name] = _parsed(text.strip())
    return values


def _parsed(text: str) -> Any:
    """A JSON value where ``text`` is one, so that 1, 0.5, 1e-7 and true are not strings."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merge(values: Values, newer: Mapping[str, Any]) -> None:
    for section, options in newer.items():
        if isinstance(options, Mapping):
            values.setdefault(section, {}).update(options)
        else:
            values[section] = options


def _unknown(path: str) -> str:
    paths = option_paths()
    inside = [known for known in paths if known.startswith(f"{path}.")]
    if inside:
        return f"{path!r} is a group of options; it has {', '.join(inside)}"
    by_name = [known for known in paths if known.endswith(f".{path.rpartition('.')[2]}")]
    close = difflib.get_close_matches(path, paths, n=3, cutoff=0.5) or by_name[:3]
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(paths)}"
    return f"there is no option {path!r}; {hint}"


def _first(error: ValidationError, *section: str) -> str:
    """The first thing that is wrong, with its path and value, in one line."""
    wrong = error.errors()[0]
    path = ".".join([*section, *(str(part) for part in wrong["loc"])])
    if wrong["type"] == "extra_forbidden":
        return _unknown(path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}={wrong['input']}: {wrong['msg'][:1].lower()}{wrong['msg'][1:]}{more}"

"""Settings: where they come from, which source counts, and what bad ones get."""

from __future__ import annotations

import json

import pytest

from esper.errors import RunUnusable, UsageError
from esper.settings import Settings, log_url, option_paths, settings_from, settings_from_json, settings_with


def test_every_option_has_a_description_and_a_default_that_is_valid():
    assert all(option_paths().values())
    assert settings_from() == Settings()


def test_assignments_beat_the_environment_which_beats_the_task(monkeypatch):
    base = ["boundary.steps=5", "training.steps=6", "policy.seeds=7"]
    monkeypatch.setenv("ESPER_TRAINING__STEPS", "60")
    monkeypatch.setenv("ESPER_POLICY__SEEDS", "70")
    settings = settings_from(["policy.seeds=700"], base)
    assert (settings.boundary.steps, settings.training.steps, settings.policy.seeds) == (5, 60, 700)


def test_one_option_of_a_group_leaves_the_others_as_they_were():
    settings = settings_from(["training.steps=3"], ["training.warmup=4"])
    assert (settings.training.steps, settings.training.warmup) == (3, 4)
    assert settings.training.learning_rate == Settings().training.learning_rate


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("boundary.step=5", "boundary.steps"),
        ("bondary.steps=5", "boundary.steps"),
        ("steps=5", "boundary.steps"),
        ("boundary=5", "is a group of options"),
        ("boundary.steps", "write path.to.option=value"),
        ("boundary.steps=0", "boundary.steps=0"),
        ("boundary.steps=2.5", "boundary.steps=2.5"),
        ("boundary.steps=many", "boundary.steps=many"),
        ("training.learning_rate=NaN", "training.learning_rate=nan"),
        ("blending.concurrent=2", "less than or equal to 1"),
        ("blending.schedule=cubic", "'linear', 'cosine' or 'sigmoid'"),
        ("completely.other=1", "there is no option 'completely.other'"),
    ],
)
def test_a_bad_assignment_is_one_line_that_names_the_option(assignment, said):
    with pytest.raises(UsageError) as caught:
        settings_from([assignment])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ESPER_BOUNDARY__STEP", "5"), ("ESPER_BOUNDRY__STEPS", "5"), ("ESPER_BOUNDARY", "no json")],
)
def test_a_bad_variable_is_an_error_and_not_ignored(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match="ESPER_"):
        settings_from()


def test_a_mapping_is_checked_as_assignments_are(monkeypatch):
    monkeypatch.setenv("ESPER_TRAINING__STEPS", "60")
    settings = settings_with({"boundary": {"steps": 5}, "training": {"warmup": 2}})
    assert (settings.boundary.steps, settings.training.steps, settings.training.warmup) == (5, 60, 2)
    for wrong in ({"bondary": {"steps": 5}}, {"boundary": {"step": 5}}, {"boundary": 5}, {"boundary": {"steps": "x"}}):
        with pytest.raises(UsageError, match="boundary"):
            settings_with(wrong)


def test_other_variables_of_esper_are_no_settings(monkeypatch):
    monkeypatch.setenv("ESPER_HOME", "/somewhere")
    assert settings_from() == Settings()


def test_recorded_settings_come_back_whatever_the_environment_says(monkeypatch):
    settings = settings_from(["boundary.steps=7", "verdict.rent=1e-9", "blending.schedule=linear"])
    text = settings.model_dump_json()
    monkeypatch.setenv("ESPER_BOUNDARY__STEPS", "50")
    monkeypatch.setenv("ESPER_GATE__FOLDS", "50")
    assert settings_from_json(text) == settings


def test_settings_recorded_by_a_newer_version_are_refused():
    recorded = json.loads(Settings().model_dump_json())
    recorded["boundary"]["hours"] = 3
    with pytest.raises(RunUnusable, match=r"boundary\.hours"):
        settings_from_json(json.dumps(recorded))


def test_the_url_of_a_log_keeps_relative_and_absolute_folders_apart():
    assert log_url(".esper") == "sqlite:///.esper/log.db"
    assert log_url("/var/esper") == "sqlite:////var/esper/log.db"

"""Whether all that is stored is what was written: the log, and the files that its runs need. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from esper.artifacts.port import ArtifactStore, Stored
from esper.errors import CorruptArtifact, DecodeError, EsperError, RunUnusable
from esper.events.assets import KernelCompiled
from esper.events.runs import CheckpointCommitted
from esper.events.topics import ASSETS
from esper.kasmina.seed.stages import IllegalMove, Stage
from esper.log.exclusions import run_events
from esper.log.integrity import Checked, Damage, check_log
from esper.log.port import Entry, Log
from esper.log.records import event_of
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.rules.checkpoints import newest_usable
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import ENDED, RunState

KERNELS = "kernels"
GRACE = 3600.0
"""Seconds for which a file that nothing names may be one that is just being written."""


@dataclass(slots=True)
class IntegrityReport:
    """What was looked at and found; ``left_over`` are files that nothing names, by the folder of a run or KERNELS."""

    log: Checked
    files: int = 0
    size: int = 0
    checkpoints: int = 0
    left_over: dict[str, list[Stored]] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)  # runs in the store that are not on this log

    @property
    def findings(self) -> list[Damage]:
        """All that is not as it was written, of the log and of the files."""
        return self.log.findings


def check(log: Log, store: ArtifactStore, run_id: str | None = None, *, own: bool = False) -> IntegrityReport:
    """Look at everything, or at what is one run's. ``own`` says that the store's runs are on this very log, so one that
    is only in the store is lost.

    Raises LogError and EsperError where it cannot be read now.
    """
    report = IntegrityReport(check_log(log, run_id))
    compiled = _compiled(log)
    in_store = {key.split("/")[1] for key in store.keys("runs/")}
    named: set[str] = set()
    for name in sorted(report.log.orders.keys() - report.log.stopped):
        try:
            state = fold(RunState(name), (event for _, event in run_events(log, name, unreadable=_told)))
        except (EsperError, IllegalMove, ValueError, LookupError, TypeError) as error:
            report.log.stopped.add(name)
            report.log.find(name, "its events", f"they do not make a run ({error}); `esper verify {name}` says where")
            continue
        order = report.log.orders[name]
        ahead = _find_ahead(report, store, name, max(order.mark.sequence, order.left))
        run = _Run(report, store, state, compiled, ahead)
        own_files = run.check()
        named |= own_files
        if not ahead:
            left = [each for each in store.stored(f"runs/{name}/") if each.key not in own_files]
            if left:
                report.left_over[f"runs/{name}"] = left
    if run_id is None:
        report.strangers = sorted(in_store - report.log.orders.keys())
        for name in report.strangers if own else ():
            _find_ahead(report, store, name, 0)
        known = named | {f"{KERNELS}/{kernel}" for kernel in compiled}
        spare = [each for each in store.stored(f"{KERNELS}/") if each.key not in known]
        if spare and not report.strangers and not report.log.stopped:  # whose kernels they may be
            report.left_over[KERNELS] = spare
    for name in sorted(report.log.stopped):
        what = "which files the run needs is not known where its log cannot be read, so they were not looked at"
        report.log.find(name, f"runs/{name}", what)
    return report


def repair(report: IntegrityReport, log: Log, store: ArtifactStore) -> Iterator[str]:
    """Remove what is left over and older than GRACE, but of runs that have a trainer, or of which anything is wrong:
    what their log says of their files may not be so. Says what was done."""
    for folder in report.left_over:
        run_id = None if folder == KERNELS else folder.partition("/")[2]
        runs = [folder] if run_id is not None else [f"runs/{name}" for name in report.log.orders]
        with ExitStack() as held:
            if not all(held.enter_context(store.alone(run)) for run in runs):
                yield f"{folder}: a trainer has it, and nothing there was removed; repair it when that has ended"
                continue
            # Looked at again: a trainer may have come and gone since, and have written the very files anew.
            again = check(log, store, run_id)
            doubt = _doubt(again, log, run_id)
            if doubt is not None:
                yield f"{folder}: nothing was removed, for {doubt}"
                continue
            left = again.left_over.get(folder, [])
            old = [each for each in left if each.age > GRACE]
            for each in old:
                store.delete(each.key)
        if old:
            yield f"{folder}: {len(old)} files removed, {sum(each.size for each in old):,} bytes"
        if len(old) < len(left):
            yield f"{folder}: {len(left) - len(old)} files are younger than an hour and stay"
    swept = store.sweep(GRACE)
    if swept:
        yield f"half-written files removed, {swept:,} bytes"


def _doubt(report: IntegrityReport, log: Log, run_id: str | None) -> str | None:
    """Why nothing may be removed; None if the runs are whole and follow the rules."""
    for name in report.log.orders if run_id is None else [run_id]:
        if any(each.run_id in (name, None) for each in report.findings):
            return f"something is wrong with run {name}: mend that first"
        try:
            found = verify(name, (event for _, event in run_events(log, name, unreadable=_told)))
        except RunUnusable as error:
            return str(error)
        if not found.ok or not found.counts["events"]:
            return f"run {name} does not follow the rules: `esper verify {name}` says where"
    return None


def _compiled(log: Log) -> dict[str, bool]:
    """The kernels that the log tells of, and whether they can be compiled again from that."""
    found: dict[str, bool] = {}
    for entry in log.read(ASSETS):
        try:
            content = event_of(entry).content
        except EsperError:
            continue
        if isinstance(content, KernelCompiled):
            found[content.kernel] = found.get(content.kernel, False) or content.geometry is not None
    return found


class _Run:
    """The files of one run. A file that several checkpoints name is looked at once."""

    def __init__(
        self, report: IntegrityReport, store: ArtifactStore, state: RunState, compiled: dict[str, bool], ahead: bool
    ) -> None:
        self._report, self._store, self._state, self._compiled = report, store, state, compiled
        self._run_id, self._folder, self._ahead = state.run_id, f"runs/{state.run_id}", ahead
        self._damage: dict[str, str | None] = {}  # by key, what is wrong with the file

    def check(self) -> set[str]:
        """Find what is damaged; returns the keys that the run names."""
        lost: dict[int, str] = {}
        for each in self._state.checkpoints:
            self._report.checkpoints += 1
            damage = [told for key in self._files(each) if (told := self._damage[key]) is not None]
            if damage:
                lost[each.step] = damage[0]
        usable = newest_usable(self._state, lost.keys())
        for step, told in lost.items():
            what = f"the checkpoint of step {step:,} is lost: {told}; {self._consequence(usable)}"
            self._report.log.find(self._run_id, self._folder, what)
        for each in self._state.checkpoints:
            self._check_fold(each)
        for seed in self._state.seeds.values():
            if seed.stage is not Stage.CULLED:
                self._check_kernel(seed.kernel, seed.name)
        return set(self._damage)

    def _consequence(self, usable: int | None) -> str:
        if self._ahead:
            return "the log that lies here is older than the store, so it may have been retired since"
        if usable is None:
            return "no checkpoint is whole, so nothing of the run can be loaded or resumed; restore the artifacts"
        if self._state.status in ENDED:
            return f"the newest weights that can be loaded are those of step {usable:,}"
        return f"resume starts from step {usable:,}"

    def _files(self, committed: CheckpointCommitted) -> list[str]:
        """The manifest and the chunks of a checkpoint, looked at."""
        manifest = f"{self._folder}/manifests/{committed.manifest}.json"
        if self._look(manifest, committed.manifest) is not None:
            return [manifest]
        try:
            raw = json.loads(self._store.get(manifest, committed.manifest))
            chunks = sorted({chunk for part in ("tensors", "cursor_tensors") for _, chunk in raw[part].values()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._damage[manifest] = f"{manifest} is no manifest ({error})"
            return [manifest]
        keys = [f"{self._folder}/chunks/{chunk}.safetensors" for chunk in chunks]
        for key, chunk in zip(keys, chunks, strict=True):
            self._look(key, chunk)
        return [manifest, *keys]

    def _check_fold(self, committed: CheckpointCommitted) -> None:
        if committed.fold is None:
            return
        told = self._look(f"{self._folder}/folds/{committed.manifest}.{committed.fold}.fold", committed.fold)
        if told is not None:
            what = f"{told}; a resume from step {committed.step:,} reads the run from its first event, and is as exact"
            self._report.log.find(self._run_id, self._folder, what)

    def _check_kernel(self, kernel: str, seed: str) -> None:
        told = self._look(f"{KERNELS}/{kernel}", kernel)
        if told is None:
            return
        again = "it will be compiled again from what the log says of it"
        never = (
            "the log does not say how it was compiled, so the run can neither be loaded nor resumed; restore the file"
        )
        what = f"the kernel of seed {seed} is lost: {told}; {again if self._compiled.get(kernel) else never}"
        self._report.log.find(self._run_id, KERNELS, what)

    def _look(self, key: str, sha256: str) -> str | None:
        """What is wrong with a file."""
        if key not in self._damage:
            try:
                self._report.size += self._store.check(key, sha256)
                self._damage[key] = None
            except CorruptArtifact:
                self._damage[key] = f"{key} is {'damaged' if self._store.exists(key) else 'missing'}"
            except EsperError as error:
                self._damage[key] = str(error)
            self._report.files += 1
        return self._damage[key]


def _told(entry: Entry, error: DecodeError) -> None:
    """What is none of the run's events was found before."""


def _find_ahead(report: IntegrityReport, store: ArtifactStore, run_id: str, end: int) -> bool:
    """Find the newest checkpoint in the store that was taken behind event ``end``, where the log ends. No manifest is
    written before the log has what it includes, so there the log's end, or all of the run, is lost."""
    newest = (end, 0, "")  # event, step, key
    for key in store.keys(f"runs/{run_id}/manifests/"):
        sha256 = key.rpartition("/")[2].removesuffix(".json")
        try:
            raw = json.loads(store.get(key, sha256))
            sequence, step = int(raw["sequence"]), int(raw["step"])
        except (EsperError, ValueError, LookupError, TypeError):
            continue  # left half written, or damaged
        if sequence > newest[0]:
            newest = sequence, step, key
    sequence, step, key = newest
    if not key:
        return False
    there = f"the log of the run ends at event {end}" if end else "this log has no such run"
    lost = "its end is missing" if end else "it was lost"
    what = (
        f"{there}, but the store holds a checkpoint of step {step:,} that was taken at event {sequence}: {lost}, as in "
        f"a backup, and resume refuses; restore a newer copy of the log, or put back the folder runs/{run_id} that was "
        "copied with this one"
    )
    report.log.find(run_id, key, what)
    return True

"""``esper doctor``: what works here, and how to mend what does not."""

from __future__ import annotations

import glob
import importlib
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, print_table
from esper.errors import EsperError
from esper.extras import WHAT, is_there, remedy
from esper.system.private import open_to_others
from esper.version import __version__

_SAFE_SQLITE = (3, 51, 3)
_ROOM = 2**30  # bytes that a run with its checkpoints may well need
SLOWER = 1.5  # times as long with several threads as with one: more than what measuring varies by
_OURS = ("log.db*", "artifacts", "clickhouse*", "dev", "worker")  # what Esper makes in a home
_TOLD = 3  # files that are named before the rest is counted
_NEEDED = ("numpy", "safetensors", "fastavro", "pydantic", "pydantic_settings", "click", "rich")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at. ``level`` is ok, warning (Esper works without it) or broken."""

    name: str
    level: str
    found: str
    remedy: str = ""


@click.command()
@common
def doctor(place: Place) -> int:
    """Say which Python, torch, SQLite, adapters, brokers, Java and data there are, and how to mend what is not.

    Exits 1 if something that is needed does not work.
    """
    findings = [finding for look in _LOOKS for finding in look(place)]
    ok = all(finding.level != "broken" for finding in findings)
    if place.json:
        print_json({"ok": ok, "version": __version__, "findings": findings})
    else:
        rows = [(each.name, each.level, "; ".join(filter(None, (each.found, each.remedy)))) for each in findings]
        print_table(("what", "", "found"), rows)
        click.echo("everything that is needed works" if ok else "something that is needed does not work")
    return 0 if ok else 1


def _python(place: Place) -> Iterator[Diagnosis]:
    found = f"{platform.python_version()} at {sys.executable}, Esper {__version__}"
    good = sys.version_info >= (3, 11)
    yield Diagnosis("Python", "ok" if good else "broken", found, "" if good else "Esper needs Python 3.11 or newer")


def _torch(place: Place) -> Iterator[Diagnosis]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Diagnosis("torch", "broken", str(error), "install torch again (make setup, or pip install torch)")
        return
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device, the CPU is used"
    yield Diagnosis("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, {cuda}")


def _threads(place: Place) -> Iterator[Diagnosis]:
    """Steps of a small network with one thread and with all: threads that wait for busy cores can be far slower."""
    try:
        import torch
    except (ImportError, OSError):
        return
    all_of_them = torch.get_num_threads()
    if all_of_them == 1:
        yield Diagnosis("threads", "ok", "1, so none waits for another")
        return
    try:
        one, several = (min(_step_ms(count) for _ in range(3)) for count in (1, all_of_them))
    finally:
        torch.set_num_threads(all_of_them)
    told = f"a small step takes {one:.2f} ms with 1 thread, {several:.2f} ms with {all_of_them}"
    remedy = "the cores are busy, or the steps too small to share: set OMP_NUM_THREADS=1, or torch.set_num_threads(1)"
    slower = several > SLOWER * one
    yield Diagnosis("threads", "warning" if slower else "ok", told, remedy if slower else "")


def _step_ms(threads: int) -> float:
    """Milliseconds that a forward and backward of three layers of 256 units on 64 examples take."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)  # the global one is not ours
    weights = [torch.randn(256, 256, generator=generator).requires_grad_() for _ in range(3)]
    x = torch.randn(64, 256, generator=generator)
    steps = 30
    began = time.perf_counter()
    for _ in range(steps):
        y = x
        for weight in weights:
            y = torch.tanh(y @ weight / 16)
        torch.autograd.grad(y.square().mean(), weights)
    return 1000 * (time.perf_counter() - began) / steps


def _packages(place: Place) -> Iterator[Diagnosis]:
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            yield Diagnosis(name, "broken", str(error), f"install {name} again (make setup, or pip install {name})")

    for extra, what in WHAT.items():
        there = is_there(extra)
        found, change = ("installed", "") if there else (f"not installed, so no {what}", remedy(extra))
        yield Diagnosis(f"extra {extra}", "ok", found, change)


def _sqlite(place: Place) -> Iterator[Diagnosis]:
    try:
        import apsw
    except (ImportError, OSError) as error:
        yield Diagnosis("SQLite", "broken", str(error), "install apsw again (make setup, or pip install apsw)")
        return
    version = apsw.sqlite_lib_version()
    good = tuple(int(part) for part in version.split(".")) >= _SAFE_SQLITE
    remedy = "has the WAL-reset bug, which can damage a log that several processes write: pip install --upgrade apsw"
    yield Diagnosis("SQLite", "ok" if good else "warning", f"{version} (apsw)", "" if good else remedy)


def _adapters(place: Place) -> Iterator[Diagnosis]:
    from esper.cli.runs.reading import existing_log, run_ids

    try:
        log = existing_log(place)
        runs = "not there yet, made when first used" if log is None else f"{len(run_ids(log))} runs"
    except EsperError as error:
        yield Diagnosis("log", "broken", f"{place.log}: {error}", "or name another with --log or --home")
    else:
        yield Diagnosis("log", "ok", f"{place.log}: {runs}")
    artifacts = Path(place.home).absolute() / "artifacts"
    yield Diagnosis("artifacts", "ok", f"file://{artifacts}{'' if artifacts.exists() else ': made when first used'}")


def _kafka(place: Place) -> Iterator[Diagnosis]:
    """The brokers' release, where the log is on Kafka; ``_adapters`` says whether the log can be read."""
    if not place.log.startswith("kafka://"):
        return
    from esper.connections import kafka_settings
    from esper.log.kafka.address import Address
    from esper.log.kafka.admin.release import LOSES_COMMITS, release_line

    try:
        settings, servers = kafka_settings(), Address.parse(place.log).servers.split(",")
    except EsperError:
        return
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            line = release_line(host.strip("[]"), int(port), settings)
        except OSError as error:
            yield Diagnosis(
                "broker", "warning", f"{server} does not answer: {error}", "start it, or mend ESPER_KAFKA_*"
            )
            continue
        if line == LOSES_COMMITS:
            remedy = (
                "4.3.0 and 4.3.1 lose acknowledged events when a lone broker is killed (KAFKA-20734), and no client "
                "can tell them from what came later; if it is one of them, run 4.2.1"
            )
            yield Diagnosis("broker", "warning", f"{server} is Kafka {line}", remedy)
        else:
            yield Diagnosis("broker", "ok", f"{server} is Kafka {line or 'of a release that it does not tell'}")


def _registry(place: Place) -> Iterator[Diagnosis]:
    """The schema registry, which a log on Kafka needs."""
    if not place.log.startswith("kafka://"):
        return
    from esper.connections import registry_settings
    from esper.log.kafka.subjects import Subjects

    try:
        settings = registry_settings()
        with closing(Subjects(settings)) as subjects:
            count = subjects.count()
    except EsperError as error:
        yield Diagnosis("registry", "broken", str(error))
    else:
        yield Diagnosis("registry", "ok", f"{settings.url}: {count} subjects")


def _java(place: Place) -> Iterator[Diagnosis]:
    """What ``esper dev up`` needs."""
    from esper.dev.jars import java, java_version, maven

    try:
        found = java()
        yield Diagnosis("Java", "ok", f"{java_version(found)} at {found}")
    except EsperError as error:
        yield Diagnosis("Java", "warning", str(error), "only `esper dev up` needs it")
    try:
        yield Diagnosis("Maven", "ok", maven())
    except EsperError as error:
        yield Diagnosis("Maven", "warning", str(error), "only `esper dev up` needs it")


def _home(place: Place) -> Iterator[Diagnosis]:
    home = Path(place.home).absolute()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            yield Diagnosis("home", "ok", f"{home} can be written")
    except OSError as error:
        remedy = "choose another with --home or ESPER_HOME, or mend its permissions"
        found = f"{home} can only be read: {error.strerror}" if there == home else f"{home}: {error.strerror}"
        yield Diagnosis("home", "warning" if there == home else "broken", found, f"to train, {remedy}")
    free = shutil.disk_usage(there).free
    remedy = "" if free >= _ROOM else "checkpoints may not fit; free some space, or choose another disk with --home"
    yield Diagnosis("disk", "ok" if free >= _ROOM else "warning", f"{free / 2**30:.1f} GiB free", remedy)


def _private(place: Place) -> Iterator[Diagnosis]:
    """What of Esper's others may read, or worse: it holds weights and data. What lies in a closed folder is safe."""
    from esper.nissa.clickhouse.warehouse import EMBEDDED
    from esper.nissa.embedded.database import analytics_url

    home = Path(place.home).absolute()
    places: dict[Path, Sequence[str]] = {home: _OURS}
    for url, scheme in ((place.log, "sqlite:///"), (analytics_url(home), EMBEDDED)):
        path = Path(url.removeprefix(scheme)).absolute()
        if url.startswith(scheme) and path.parent != home:
            places[path.parent] = (*places.get(path.parent, ()), f"{glob.escape(path.name)}*")
    clean = True
    for folder, names in places.items():
        try:
            found = list(_exposed(folder, names, itself=folder == home))
        except OSError as error:
            found, clean = [], False
            yield Diagnosis("privacy", "warning", f"{error.filename}: {error.strerror}, so not looked at")
        if found:
            clean = False
            yield _told_of(found)
    if clean:
        yield Diagnosis("privacy", "ok", f"nobody but its owner gets at {home}")


def _exposed(folder: Path, names: Sequence[str], *, itself: bool) -> Iterator[tuple[Path, int]]:
    """What others may get at of ``names`` in ``folder``, and the folder ``itself``."""
    own = next(open_to_others(folder.resolve()), None)
    if own is None:
        return
    if itself:
        yield folder, own[1]
    for path in sorted(path for name in names for path in folder.glob(name)):
        yield from open_to_others(path)


def _told_of(found: Sequence[tuple[Path, int]]) -> Diagnosis:
    named = ", ".join(f"{path} ({mode:04o})" for path, mode in found[:_TOLD])
    more = f" and {len(found) - _TOLD:,} more" if len(found) > _TOLD else ""
    outermost = [path for path, _ in found if not any(other in path.parents for other, _ in found)]
    remedy = f"chmod -R go-rwx {' '.join(shlex.quote(str(path)) for path in outermost)}"
    return Diagnosis("privacy", "warning", f"others than the owner get at {named}{more}", remedy)


def _data(place: Place) -> Iterator[Diagnosis]:
    looks: dict[str, Callable[[], object]] = {"fashion-mnist": _fashion_mnist, "digits": _digits}
    for name, look in looks.items():
        try:
            yield Diagnosis(f"data of {name}", "ok", str(look()))
        except (EsperError, ImportError, OSError) as error:
            yield Diagnosis(f"data of {name}", "warning", str(error))


def _fashion_mnist() -> object:
    from esper.tasks import fashion_mnist

    return fashion_mnist.folder()


def _digits() -> object:
    from esper.tasks import digits

    return digits.data_file()


_LOOKS = (_python, _torch, _threads, _packages, _sqlite, _adapters, _kafka, _registry, _java, _home, _private, _data)

"""``esper weights``: what a run has learnt and grown, as a file that loads without Esper's log."""

from __future__ import annotations

from pathlib import Path

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import log_with
from esper.errors import UsageError


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A .safetensors file.")
@click.option(
    "--at",
    default="last",
    show_default=True,
    metavar="CHECKPOINT",
    help="last, best, the step of a checkpoint, or #SEQUENCE: the newest that there was at that event.",
)
@click.option("--live/--no-live", default=True, help="With seeds that blend or hold there, or without them.")
@common
def weights(place: Place, run_id: str, out: Path, at: str, live: bool) -> None:
    """Write a run's weights, seeds included, to a safetensors file.

    Load it with esper.build(FILE, model): the model needs neither the run nor its log.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} is no .safetensors file; name one that ends so")
    log_with(place, run_id).close()  # torch takes seconds to import
    from esper.tolaria.checkpoint.weights import weights as read
    from esper.tolaria.checkpoint.weights import write

    step, tensors = read(run_id, at, live=live, home=place.home, log=place.log)
    size = write(out, tensors, {"esper.run": run_id, "esper.step": str(step)})
    if place.json:
        print_json({"run_id": run_id, "step": step, "file": str(out), "tensors": len(tensors), "bytes": size})
        return
    click.echo(f"{out}: {len(tensors):,} tensors of run {run_id} after step {step:,}, {size:,} bytes")
    click.echo(f"load it with  esper.build({str(out)!r}, model)")

"""The command's entry: which commands there are, and what an error says and exits with."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from esper.errors import EsperError, RunEnded, UsageError
from esper.extras import missing
from esper.kasmina.seed.stages import IllegalMove
from esper.version import __version__

DONE, FAILED, WRONG_USAGE = 0, 1, 2

COMMANDS = {
    "train": ("esper.cli.training.train:train", "Train a built-in task and watch its network grow."),
    "resume": ("esper.cli.training.train:resume", "Go on with a run of a built-in task."),
    "runs": ("esper.cli.runs.inspect:runs", "List the runs."),
    "show": ("esper.cli.runs.inspect:show", "Show a run, now or at any event or step."),
    "events": ("esper.cli.runs.inspect:events", "Print a run's events, or follow them."),
    "watch": ("esper.cli.runs.watch:watch", "Watch a run as it goes on."),
    "explain": ("esper.cli.runs.advice:explain", "Say why a run grew or did not, and what to change."),
    "compare": ("esper.cli.runs.compare:compare", "Say what is different between runs, and what they came to."),
    "why": ("esper.cli.runs.explain:why", "Tell why a seed was born and what became of it."),
    "check": ("esper.cli.operating.check:check", "Look at all that is stored: is it what was written?"),
    "verify": ("esper.cli.runs.explain:verify", "Compute every decision and verdict of a run again from its log."),
    "weights": ("esper.cli.training.weights:weights", "Write a run's weights, seeds included, to a file."),
    "pause": ("esper.cli.training.control:pause", "Ask a run to pause; resume goes on with it."),
    "rename": ("esper.cli.training.describe:rename", "Give a run a name."),
    "tag": ("esper.cli.training.describe:tag", "Give a run tags, or take them away."),
    "note": ("esper.cli.training.describe:note", "Write a note about a run."),
    "stop": ("esper.cli.training.control:stop", "Ask a run to stop for good."),
    "sql": ("esper.cli.operating.sql:sql", "Ask ClickHouse about everything on the log."),
    "sink": ("esper.cli.operating.analytics:sink", "Follow the log into ClickHouse."),
    "report": ("esper.cli.runs.report:report", "Write a page about runs: curves, seeds, decisions, cost."),
    "analytics": ("esper.cli.operating.analytics:analytics", "Make, check and rebuild ClickHouse's tables."),
    "seed": ("esper.cli.training.control:seed", "Ask something of one seed."),
    "copy": ("esper.cli.operating.copy:copy", "Copy runs from one log to another."),
    "dlq": ("esper.cli.operating.dlq:dlq", "The dead letters: records that could not be read."),
    "schemas": ("esper.cli.operating.schemas:schemas", "Check the events' schemas against their past versions."),
    "topics": ("esper.cli.operating.topics:topics", "Make the topics of a log on Kafka, and set rights."),
    "log": ("esper.cli.operating.log:log", "Find transactions that hold a log on Kafka up, and end them."),
    "dev": ("esper.cli.operating.dev:dev", "Run Kafka and a schema registry on this machine."),
    "worker": ("streams.commands:worker", "Keep the views of a log on Kafka, and serve them."),
    "views": ("streams.commands:views", "Compare the workers' views with the log, or rebuild them."),
    "doctor": ("esper.cli.operating.doctor:doctor", "Say what works here and how to mend what does not."),
}


class Commands(click.Group):
    """Imports a command's module when it is called: ``esper runs`` starts without torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order in which the help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command ``cmd_name``, whose module is imported now; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, with the words of ``COMMANDS``: no module is imported for them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="esper")
def cli() -> None:
    """Train PyTorch networks that grow while they train, every change an event.

    \b
    Start with:  esper train --task digits
    Then:        esper runs, esper show RUN, esper why RUN SEED, esper report RUN

    Each command has --help, --home and --json. Exit codes: 0 done, 1 it failed, 2 wrong usage.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are one line on stderr, with ``--debug`` a traceback too."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _log_to_stderr()
    try:
        # Not click's own main, which would decide about closed pipes and exit codes itself.
        with cli.make_context("esper", given) as context:
            result = cli.invoke(context)
            sys.stdout.flush()
            return result if isinstance(result, int) else DONE
    except (Exception, KeyboardInterrupt, RunEnded) as error:  # noqa: BLE001  everything ends as one line
        if "--debug" in given and not isinstance(error, click.exceptions.Exit):
            traceback.print_exc()
        return _explain(error)


def _explain(error: BaseException) -> int:
    """Say what went wrong in one line; returns the exit code."""
    code = FAILED
    match error:
        case RunEnded():
            code, text = DONE, error.message
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.ctx.get_help() if error.ctx else "esper --help", err=True)
            return WRONG_USAGE
        case click.UsageError():
            code, text = error.exit_code, _usage(error)
        case click.ClickException():
            text = error.format_message()
        case click.exceptions.Exit():
            return error.exit_code
        case KeyboardInterrupt():
            text = "interrupted"
        case UsageError():
            code, text = WRONG_USAGE, str(error)
        case IllegalMove():
            text = f"the log holds what cannot have happened: {error}; esper verify RUN says where"
        case EsperError():
            text = str(error)
        case ModuleNotFoundError() if (known := missing(error)) is not None:
            text = str(known)
        case OSError() if error.errno == errno.EPIPE:
            # Whoever read our output has left; nothing more may be written, at exit neither.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        case OSError():
            text = f"{error.filename or 'reading or writing'}: {error.strerror or error}"
        case _:
            text = f"{type(error).__name__}: {error} (an error in Esper or in what it calls; --debug shows where)"
    click.echo(f"esper: {' '.join(text.split())}", err=True)
    return code


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "esper"
    return f"{error.format_message().rstrip('.')}; see {command} --help"


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"esper: {self.format(record)}", err=True)


def _log_to_stderr() -> None:
    logger = logging.getLogger("esper")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)

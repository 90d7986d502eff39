"""The command line. Nothing heavy is imported before a command runs, so that `hiernas --help` is instant."""

from __future__ import annotations

import errno
import inspect
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

import hiernas.commands as options
from hiernas import ranks
from hiernas.cli.show import errors, out, print_either, print_pairs, print_summary, print_table, print_tables
from hiernas.errors import ConfigError, HiernasError
from hiernas.names import VERSION

MISREAD: Any = typer.BadParameter.__base__  # what a command line that cannot be read raises; it has no public name
_say = errors.print
app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Find the best convolutional network for your own images under the limits of your own device.",
)  # fmt: skip


def main() -> None:
    """Entry point: user errors become one line and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # beside other work, waiting threads would slow all down
    with ranks.joined():
        out.quiet = ranks.number() > 0
        try:
            code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
            if code == 130:  # Ctrl-C before there was a listener, which ends the process itself
                _say("interrupted: nothing had begun")
            sys.exit(code)
        except MISREAD as error:
            command = error.ctx.command_path if error.ctx else "hiernas"  # an option without its value has none
            _fail(f"{error.format_message().rstrip('.')}; see `{command} -h`", error.exit_code)
        except HiernasError as error:
            if ranks.said(error):
                sys.exit(error.exit_code)
            _fail(str(error), error.exit_code)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                _fail("the disk is full; free some space, then go on with `hiernas resume RUN`: nothing is lost", 2)
            if error.filename is None:
                raise
            _fail(f"cannot use {error.filename}: {error.strerror}; name another file or folder", 2)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            smaller = "a smaller batch (--set train.batch_size=...) or smaller images (--image-size)"
            _fail(f"out of memory; use {smaller}, see `hiernas check`", 2)


def _fail(message: str, code: int) -> None:
    _say(f"error: {message}")
    sys.exit(code)


@contextmanager
def listening(again: str = "", quietly: bool = False, log: str | None = None) -> Iterator[Any]:
    """A listener that shows a run's events. A signal ends with one line, how to go on, and exit code 130, 143 or 129.

    `again`: the command that goes on, if not `hiernas resume` of the run that was begun; `quietly`: on standard error.
    """
    from hiernas import stop
    from hiernas.cli.progress import Display

    listener = Display(errors if quietly else out, log=log)
    with stop.heeded():
        try:
            with listener:  # its bar is gone before the sentence is written: it would erase the line that it stands on
                yield listener
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, stop.Stopped) else 2
            word = {2: "interrupted", 15: "asked to stop (SIGTERM)", 1: "hung up (SIGHUP)"}.get(number, f"signal {number}")
            again = again or listener.again
            way = f"go on with `{again}`; what was saved is not done again"
            if ranks.number() == 0:
                _say(f"{word}: {way if again else 'no run was begun; latencies that were measured are kept'}")
            sys.exit(128 + number)


# -- the commands ------------------------------------------------------------------------------------------------------


def _version(show: bool) -> None:
    if show:
        out.print(f"hiernas {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    asked: typer.Context, version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False
) -> None:
    if ranks.size() > 1 and asked.invoked_subcommand not in ("search", "resume", "train"):
        raise ConfigError(f"{asked.invoked_subcommand} is done by one process; start it without torchrun")


def asked_by(run: Callable[..., Any]) -> tuple[Any, bool]:
    """The dataclass of a command's options, and whether it tells a listener what happens."""
    (asked,) = (hint for name, hint in get_type_hints(run).items() if name not in ("return", "listener"))
    return asked, "listener" in inspect.signature(run).parameters


def _command(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command of a function of one dataclass, whose fields are the command's options, and perhaps of a listener.

    It prints by itself, or gives what it says: as JSON, and a function that prints the same.
    """
    asked, listens = asked_by(run)
    hints = get_type_hints(asked, include_extras=True)
    of_options = [(f.name, inspect.Parameter.empty if f.default is MISSING else f.default) for f in fields(asked) if f.init]
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [inspect.Parameter(name, kind, default=default, annotation=hints[name]) for name, default in of_options]

    def command(**given: Any) -> None:
        of, as_json = asked(**given), given.get("json", False)
        if not listens:
            said = run(of)
        else:
            with listening(getattr(of, "again", ""), as_json, given.get("log")) as listener:
                said = run(of, listener)
        if said is not None:
            print_either(as_json, *said)

    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined] # what typer reads
    app.command(run.__name__, help=run.__doc__)(command)
    return run


@_command
def search(asked: options.SearchOptions) -> None:
    """Search, train, measure and export a network; with no arguments, for the digits data set on this CPU."""
    going_on = asked.continue_ and asked.out is not None and ranks.told((asked.out / "config.yaml").exists)()
    if asked.out is not None and not going_on:
        from hiernas.run.folder import refuse_existing

        refuse_existing(asked.out)
    from hiernas.commands.check import request_of
    from hiernas.run.search import continued
    from hiernas.run.search import search as run_search

    request = request_of(asked)
    with listening(f"hiernas resume {asked.out}" if going_on else "", log=asked.log) as listener:
        go: Any = continued if going_on else partial(run_search, began=asked.began)
        run = go(request, asked.out, listener)
    print_summary(run.path)


@_command
def check(asked: options.CheckOptions, listener: Any) -> Any:
    """Say what a search would face: size, costs, share within the limits, memory and time. Trains nothing."""
    import hiernas.commands.check as command

    found = command.check(asked, listener)
    return found, partial(print_pairs, "Check: nothing was trained", command.in_words(found))


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="folder of a run that was interrupted")],
    data: Annotated[str | None, typer.Option(help="where its images were moved; they must be the same")] = None,
    log: options.Log = None,
) -> None:
    """Go on with an interrupted run; it ends as if it had never been interrupted."""
    from hiernas.run.folder import RunFolder

    folder = RunFolder.open(run)  # says so at once where it is none
    if folder.read_json("result.json") is not None and not folder.missing():
        out.print(f"{run} was finished; there is nothing to go on with")
    from hiernas.run.search import resume as run_resume

    with listening(f"hiernas resume {run}", log=options.checked_log(log)) as listener:
        run_resume(run, listener, data=data)
    print_summary(run)


@app.command()
def watch(run: Annotated[Path, typer.Argument(help="folder of a run, also of one that is about to begin, or a study")]) -> None:
    """Follow a run or a study that other processes do, until it ends. Ctrl-C ends the watching alone."""
    from hiernas.cli.progress import follow

    try:
        follow(run, out)
    except KeyboardInterrupt:
        _say(f"{run} was left alone; `hiernas watch {run}` shows it again")
        raise typer.Exit(130) from None
    if not (run / "study.yaml").exists():
        print_summary(run)
    else:
        from hiernas.commands.compare import standing

        print_tables(standing(run).tables())


@_command
def measure(asked: options.MeasureOptions, listener: Any) -> Any:
    """Measure the latency table of a space on this device; what was measured before is kept."""
    from hiernas.commands.measure import measure as run_measure

    shown = run_measure(asked, listener)
    return shown, partial(print_pairs, f"Latency of {asked.source}", shown)


@_command
def cost(asked: options.CostOptions, listener: Any) -> Any:
    """Parameters, MACs and latency of a network: counted, published, predicted from the table and measured here."""
    import hiernas.commands.cost as command

    found = command.cost(asked, listener)
    return found, partial(print_pairs, asked.source, command.in_words(found))


@_command
def vital(asked: options.VitalOptions) -> None:
    """Blocks that every path through a network takes (HourNAS), what they cost, and what they are worth."""
    from hiernas.commands.vital import listing, reset, reset_table

    tables = [listing(asked).table()]
    if asked.reset:
        with listening(f"hiernas vital {asked.source} --reset"), out.status("resetting blocks") as status:

            def show(done: int, of: int) -> None:
                status.update(f"resetting blocks: {done / of:.0%} done")

            tables.append(reset_table(reset(asked, show), Path(asked.source)))
    for table in tables:
        print_table(*table)
        out.print()


@_command
def train(asked: options.TrainOptions, listener: Any) -> Any:
    """Train the stand-alone network of a run or an architecture file, from scratch or with inherited weights."""
    from hiernas.commands.train import train as run_train

    path = run_train(asked, listener)
    return path, partial(print_summary, path)


@_command
def export(asked: options.ExportOptions) -> Any:
    """Write the trained network for use without HierNAS, after a check that it computes the same."""
    from hiernas.commands.export import exported

    found, table = exported(asked)
    return found, partial(print_table, *table)


@_command
def predict(asked: options.PredictOptions) -> None:
    """Name the class of each picture and how probable it is, by the trained network of a run."""
    import hiernas.commands.use as command

    rows, remarks = command.predict(asked)
    if asked.csv is None:
        print_table(command.COLUMNS, rows, ())
    for remark in remarks:
        _say(remark)


@_command
def evaluate(asked: options.EvaluateOptions) -> Any:
    """Accuracy of the trained network of a run: with its interval, by class, and what is taken for what."""
    import hiernas.commands.use as command

    found = command.evaluate(asked)
    return command.to_json(*found), partial(print_tables, command.tables(*found))


@_command
def rank(asked: options.RankOptions, listener: Any) -> Any:
    """Say how far a search can be trusted: its network against random ones that are trained alike."""
    from hiernas.commands.rank import rank as run_rank

    found = run_rank(asked.run, asked.networks, asked.epochs, listener)
    return asdict(found), partial(print_pairs, str(asked.run), found.rows())


@_command
def compare(asked: options.CompareOptions, listener: Any) -> Any:
    """Methods against their controls under the same limits, with seeds and intervals; or finished runs side by side."""
    from hiernas.commands.compare import compare as run_compare

    found = run_compare(asked, listener)
    return found.to_json(), partial(print_tables, found.tables())


@_command
def report(asked: options.ReportOptions) -> Any:
    """Write the HTML report of a run or a study again."""
    from hiernas.commands.compare import page_of

    written = page_of(asked.run)
    if asked.open_ and not webbrowser.open(at := Path(str(written)).resolve().as_uri()):
        _say(f"no browser could be started here; open {at}")
    return written, partial(out.print, f"wrote {written}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="a finished run")], to: Annotated[str, typer.Option(help="hf:USER/NAME")], *,
    private: Annotated[bool, typer.Option("--private", help="make it for you alone")] = False,
    license_: Annotated[str | None, typer.Option("--license", help="that the card names; default: none")] = None,
    with_images: Annotated[bool, typer.Option("--with-images", help="also the test images of the run's report")] = False,
    dry_run: Annotated[Path | None, typer.Option(metavar="FOLDER", help="write it there instead, and send nothing")] = None,
) -> None:  # fmt: skip
    """Put the trained network of a run on the Hugging Face hub, with a model card and without your images."""
    from hiernas.run.hub import push as run_push

    with listening(f"hiernas push {run} --to {to}"):
        run_push(run, to, private=private, license=license_, with_images=with_images, dry_run=dry_run, say=out.print)


LISTS = ["methods", "spaces", "networks", "recipes", "data", "runtimes", "presets", "runs"]


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(LISTS[:-1])} or {LISTS[-1]}", autocompletion=lambda: LISTS)] = "",
    of: Annotated[str, typer.Argument(help="the folder of `list runs`, the method of `list presets`")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Show what there is."""
    import hiernas.commands.lists as command

    found = command.listing(kind, of)
    print_either(as_json, command.to_json(*found), partial(print_table, *found))

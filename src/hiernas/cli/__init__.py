"""The command line. Nothing heavy is imported before a command runs, so that `hiernas --help` is instant."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hiernas.cli.terminal import display, interruptible, out, print_estimate, print_pairs, print_summary, print_table
from hiernas.errors import ConfigError, HiernasError
from hiernas.version import VERSION

if TYPE_CHECKING:
    from hiernas.run.request import Request

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Find the best convolutional network for your own images under the limits of your own device.",
)  # fmt: skip

Method = Annotated[str, typer.Argument(help="hnas, hournas, darts, ...; see `hiernas list methods`")]
Space = Annotated[str | None, typer.Option(help="search space; default: the method's own; see `hiernas list spaces`")]
Data = Annotated[str, typer.Option(help="'digits', a folder of class folders, a folder of parquet files, or hf:NAME")]
Limits = Annotated[
    list[str] | None, typer.Option("--limit", help="such as \"latency_ms<=5\" or \"60<=latency_ms<=70\"; repeatable")
]
TableFile = Annotated[Path | None, typer.Option("--latency-table", help="a latency table file (ours or a phone's)")]
Cells = Annotated[
    str | None, typer.Option("--cells", help="cells of a stage search: a genotype by name or text, or a run that found some")
]
Preset = Annotated[str, typer.Option(help="quick, small or paper; see `hiernas list presets`")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of the method's configuration, or space.KEY=VALUE; repeatable")
]
Seed = Annotated[int, typer.Option(help="seed of everything random", min=0)]
Out = Annotated[Path | None, typer.Option(help="folder to write; default: a new one under runs/")]
ImageSize = Annotated[int | None, typer.Option(help="resize images to this many pixels a side")]
ValPerClass = Annotated[int | None, typer.Option(help="validation images per class, cut from the training images")]
SkipBad = Annotated[bool, typer.Option("--skip-bad-images", help="leave out images that cannot be read, and count them")]
RuntimeName = Annotated[
    str | None, typer.Option("--runtime", help="what measures latency; default: onnxruntime; see `hiernas list runtimes`")
]
Threads = Annotated[int | None, typer.Option(help="threads of the measured runtime; default: 1", min=1)]


def main() -> None:
    """Entry point: user errors become one line and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # beside other work, waiting threads would slow all down
    try:
        app()
    except HiernasError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail("the disk is full; free some space, then go on with `hiernas resume RUN`: nothing is lost", 2)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        _fail(
            "out of memory; use a smaller batch (--set train.batch_size=...) or smaller images (--image-size), see "
            "`hiernas check`",
            2,
        )


def _fail(message: str, code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"error: {message}")
    sys.exit(code)


def _version(show: bool) -> None:
    if show:
        out.print(f"hiernas {VERSION}")
        raise typer.Exit


@app.callback()
def _common(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def search(
    method: Method = "hnas",
    space: Space = None,
    data: Data = "digits",
    limit: Limits = None,
    latency_table: TableFile = None,
    preset: Preset = "quick",
    cells: Cells = None,
    settings: Settings = None,
    seed: Seed = 0,
    out_folder: Annotated[Path | None, typer.Option("--out", help=Out.__metadata__[0].help)] = None,
    image_size: ImageSize = None,
    val_per_class: ValPerClass = None,
    skip_bad_images: SkipBad = False,
    runtime: RuntimeName = None,
    threads: Threads = None,
) -> None:
    """Search, train, measure and export a network; with no arguments, for the digits data set on this CPU."""
    if out_folder is not None:
        from hiernas.run.folder import refuse_existing

        refuse_existing(out_folder)
    request = _request(
        method, space, data, limit, latency_table, preset, cells, settings, seed, image_size, val_per_class, skip_bad_images,
        runtime, threads,
    )  # fmt: skip
    from hiernas.run.search import search as run_search

    with display() as listener:
        run = interruptible(lambda: run_search(request, out_folder, listener), listener)
    print_summary(run.path)


@app.command()
def check(
    method: Method = "hnas",
    space: Space = None,
    data: Data = "digits",
    limit: Limits = None,
    latency_table: TableFile = None,
    preset: Preset = "quick",
    cells: Cells = None,
    settings: Settings = None,
    seed: Seed = 0,
    image_size: ImageSize = None,
    val_per_class: ValPerClass = None,
    skip_bad_images: SkipBad = False,
    runtime: RuntimeName = None,
    threads: Threads = None,
) -> None:
    """Say what a search would face: size, costs, share within the limits, memory and time. Trains nothing."""
    request = _request(
        method, space, data, limit, latency_table, preset, cells, settings, seed, image_size, val_per_class, skip_bad_images,
        runtime, threads,
    )  # fmt: skip
    from hiernas.commands.check import estimate
    from hiernas.run.request import prepare

    with display() as listener:
        prepared = prepare(request, listener)
    print_estimate(prepared, estimate(prepared))


def _request(
    method: str, space: str | None, data: str, limit: list[str] | None, latency_table: Path | None, preset: str,
    cells: str | None, settings: list[str] | None, seed: int, image_size: int | None, val_per_class: int | None,
    skip_bad_images: bool, runtime: str | None, threads: int | None,
) -> Request:  # fmt: skip
    from hiernas.run.request import Request

    texts = settings or []
    arguments = _space_arguments(texts)
    if cells is not None:
        from hiernas.commands.cost import cells_named

        arguments["cell"] = cells_named(cells)
    request = Request(
        method, space, arguments, data, tuple(limit or ()), latency_table, runtime, threads, preset,
        settings=[t for t in texts if not t.strip().startswith("space.")],
        seed=seed, image_size=image_size, val_per_class=val_per_class, skip_bad_images=skip_bad_images,
    )  # fmt: skip
    request.resolved()  # a mistake is named before anything is read
    return request


def _space_arguments(settings: list[str]) -> dict[str, Any]:
    pairs = [t.strip()[len("space.") :].partition("=") for t in settings if t.strip().startswith("space.")]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--set space.{key}: write space.KEY=VALUE")
    return {key: _value(value) for key, _, value in pairs}


def _value(text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return tuple(value) if isinstance(value, list) else text if isinstance(value, dict) else value


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="folder of a run that was interrupted")]) -> None:
    """Go on with an interrupted run; it ends as if it had never been interrupted."""
    from hiernas.run.search import resume as run_resume

    with display() as listener:
        interruptible(lambda: run_resume(run, listener), listener)
    print_summary(run)


@app.command()
def measure(
    space: Annotated[str, typer.Argument(help="search space; see `hiernas list spaces`")],
    runtime: Annotated[str | None, typer.Option(help="default: onnxruntime; see `hiernas list runtimes`")] = None,
    threads: Annotated[int | None, typer.Option(help="threads of the runtime; default: 1", min=1)] = None,
    input_size: Annotated[str, typer.Option(help="channels,height,width")] = "3,224,224",
    num_classes: Annotated[int, typer.Option(help="classes of the classifier", min=2)] = 1000,
    settings: Settings = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="table file; default: the user's cache")] = None,
    pack: Annotated[Path | None, typer.Option(help="folder to write, for a device without HierNAS")] = None,
    import_file: Annotated[Path | None, typer.Option("--import", help="what a pack measured; becomes a table")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="import what was measured so far")] = False,
    merge: Annotated[Path | None, typer.Option(help="another table of the same device, to be put into this one")] = None,
    calibrate: Annotated[int | None, typer.Option(help="compare with this many whole networks")] = None,
    even: Annotated[bool, typer.Option("--even", help="networks spread evenly over the latencies, not uniform")] = False,
    seed: Annotated[int | None, typer.Option(help="of the networks of --calibrate; default: 0", min=0)] = None,
    store_correction: Annotated[bool, typer.Option("--store-correction", help="the table then predicts corrected")] = False,
) -> None:
    """Measure the latency table of a space on this device; what was measured before is kept."""
    from hiernas.commands.measure import Asked
    from hiernas.commands.measure import measure as run_measure

    for text in settings or []:
        if not text.strip().startswith("space."):
            raise ConfigError(f"--set {text}: a measurement takes --set space.KEY=VALUE only")
    asked = Asked(
        space, _sizes(input_size), num_classes, _space_arguments(settings or []), runtime, threads, out_file, pack,
        import_file, allow_missing, merge, calibrate, even, seed, store_correction,
    )  # fmt: skip
    with display() as listener:
        shown = run_measure(asked, listener)
    print_pairs(f"Latency of {space}", shown)


def _sizes(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() for p in parts):
        raise ConfigError(f"--input-size {text}: write channels,height,width, such as 3,224,224")
    sizes = (int(parts[0]), int(parts[1]), int(parts[2]))
    from hiernas.machine import usable_memory

    bytes_, memory = 4 * sizes[0] * sizes[1] * sizes[2], usable_memory()
    if bytes_ > memory / 64:
        most = int((memory / 64 / 4 / sizes[0]) ** 0.5)
        raise ConfigError(
            f"--input-size {text}: one such input takes {bytes_ / 2**30:,.1f} GiB, and what a network computes from it many "
            f"times that; this machine has {memory / 2**30:.1f} GiB; give sides of at most {most}"
        )
    return sizes


@app.command()
def cost(
    network: Annotated[str, typer.Argument(help="an architecture file (best.json), a run folder, or a name such as fbnet-c")],
    latency_table: TableFile = None,
    runtime: RuntimeName = None,
    threads: Threads = None,
    input_size: Annotated[str | None, typer.Option(help="channels,height,width; of a published network")] = None,
    num_classes: Annotated[int | None, typer.Option(help="classes; of a published network", min=2)] = None,
    settings: Settings = None,
) -> None:
    """Parameters, MACs and latency of a network: counted, published, predicted from the table and measured here."""
    from hiernas.commands.cost import Source, cost_of

    for text in settings or []:
        if not text.strip().startswith("space."):
            raise ConfigError(f"--set {text}: a cost takes --set space.KEY=VALUE only")
    sizes = None if input_size is None else _sizes(input_size)
    with display() as listener:
        source = Source(network, sizes, num_classes, _space_arguments(settings or []))
        report = cost_of(source, latency_table, runtime, threads, listener)
    print_pairs(network, report)


@app.command()
def vital(
    source: Annotated[str, typer.Argument(help="a space or network by name, an architecture file, a run folder, a .pt2 file")],
    reset: Annotated[bool, typer.Option("--reset", help="of a run: reset each block, see what accuracy is left")] = False,
    draws: Annotated[int | None, typer.Option(help="random draws of channels to reset; default: 5", min=1)] = None,
    images: Annotated[int | None, typer.Option(help="test images to use; default: 1000 at most", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="of the draws; default: 0", min=0)] = None,
    input_size: Annotated[str | None, typer.Option(help="channels,height,width; of a space or a published network")] = None,
    num_classes: Annotated[int | None, typer.Option(help="classes; of a space or a published network", min=2)] = None,
    settings: Settings = None,
) -> None:
    """Blocks that every path through a network takes (HourNAS), what they cost, and what they are worth."""
    from hiernas.commands.vital import Subject, reset_of, reset_table

    for text in settings or []:
        if not text.strip().startswith("space."):
            raise ConfigError(f"--set {text}: vital blocks take --set space.KEY=VALUE only")
    if not reset and (draws, images, seed) != (None, None, None):
        raise ConfigError("--draws, --images and --seed are for --reset; give both, or neither")
    sizes = None if input_size is None else _sizes(input_size)
    tables = [Subject(source, sizes, num_classes, _space_arguments(settings or [])).listing().table()]
    if reset:
        with out.status("resetting blocks") as status:

            def show(done: int, of: int) -> None:
                status.update(f"resetting blocks: {done / of:.0%} done")

            tables.append(reset_table(reset_of(Path(source), draws, images, seed, show), Path(source)))
    for table in tables:
        print_table(*table)
        out.print()


@app.command()
def train(
    source: Annotated[Path, typer.Argument(help="a run folder or an architecture file")],
    data: Annotated[str | None, typer.Option(help="the images; default: those of the run")] = None,
    inherit: Annotated[bool, typer.Option("--inherit", help="start from the supernet's weights (of a run)")] = False,
    epochs: Annotated[int | None, typer.Option(help="default: the preset's final_epochs", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="initial learning rate; default: the preset's final_lr")] = None,
    recipe: Annotated[str | None, typer.Option(help="a published recipe; see `hiernas list recipes`")] = None,
    network: Annotated[
        str | None, typer.Option(help="'imagenet' or 'cifar': build found cells into the network for such images")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="its size, or a search's recipe; default: the run's, or quick")] = None,
    settings: Settings = None,
    seed: Seed = 0,
    out_folder: Annotated[Path | None, typer.Option("--out", help="folder to write; default: a new one under runs/")] = None,
    image_size: ImageSize = None,
    skip_bad_images: SkipBad = False,
) -> None:
    """Train the stand-alone network of a run or an architecture file, from scratch or with inherited weights."""
    from hiernas.commands.train import start_training

    with display() as listener:
        started = start_training(
            source, data=data, inherit=inherit, epochs=epochs, lr=lr, recipe=recipe, network=network, preset=preset,
            settings=settings or [], seed=seed, out=out_folder, image_size=image_size,
            skip_bad_images=skip_bad_images, listener=listener,
        )  # fmt: skip
        interruptible(started, listener)
    print_summary(started.path)


@app.command("export")
def export_command(
    source: Annotated[Path, typer.Argument(help="a run folder or an architecture file")],
    to: Annotated[str, typer.Option(help="onnx, pt2 or python (one readable module file)")] = "onnx",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="default: best.onnx, best.pt2 or best.py (weights: best.pt) beside the source")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors file; default: the one beside the source")] = None,
) -> None:
    """Write the trained network for use without HierNAS, after a check that it computes the same."""
    from hiernas.commands.export import export_network

    report = export_network(source, to, out_file, weights)
    print_pairs("Exported", report)


@app.command()
def rank(
    run: Annotated[Path, typer.Argument(help="a finished search")],
    against: Annotated[str, typer.Option(help="'random': networks drawn under the same limits")] = "random",
    networks: Annotated[
        int, typer.Option(help="random ones to train; up to as many more of the last supernet's space and of the front", min=2)
    ] = 5,
    epochs: Annotated[int | None, typer.Option(help="of each training; default: the run's final_epochs", min=1)] = None,
) -> None:
    """Say how far a search can be trusted: its network against random ones that are trained alike."""
    from hiernas.commands.lists import trust_rows
    from hiernas.commands.rank import rank as run_rank

    if against != "random":
        raise ConfigError(f"--against {against}: there is 'random' only")
    with display() as listener:
        found = interruptible(lambda: run_rank(run, networks, epochs, listener), listener)
    print_pairs(str(run), trust_rows(found))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a finished run folder")]) -> None:
    """Write the run's HTML report again."""
    from hiernas.report.page import write_report

    out.print(f"wrote {write_report(run)}")


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help="methods, spaces, networks, recipes, data, runtimes or presets")],
) -> None:
    """Show what there is."""
    from hiernas.commands.lists import listing

    print_table(*listing(kind))


if __name__ == "__main__":
    main()

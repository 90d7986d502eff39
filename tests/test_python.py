"""The Python surface: its examples do what they say, its functions are the commands, and its types are written down.

`python tests/test_python.py` writes src/hiernas/__init__.pyi, which editors and type checkers read.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import hiernas
from hiernas import api, cli
from hiernas.errors import ConfigError, DataError, HiernasError, RunError
from hiernas.latency import runtimes
from hiernas.methods import METHODS
from hiernas.run import settings
from hiernas.run.trained import Facts, TrainedNetwork

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = ("check", "train", "export", "report", "rank", "compare", "measure", "evaluate", "cost")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def docstrings() -> Iterator[tuple[str, str]]:
    """Of the surface's own module, in an order in which their examples can be run."""
    yield "hnas", str(api.Search.__call__.__doc__)
    for name in ("resume", *COMMANDS):
        yield name, str(getattr(hiernas, name).__doc__)


def sessions() -> Iterator[tuple[str, str]]:
    """All examples: the page begins, then the docstrings, then the rest of the page."""
    first, *rest = BLOCK.findall((ROOT / "docs" / "reference.md").read_text())
    yield "reference", first
    yield from docstrings()
    yield from (("reference", block) for block in rest)


def calls(code: str) -> Iterator[tuple[str, ast.Call]]:
    """What `hiernas.NAME(...)` a text calls, by name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and (found := re.fullmatch(r"hiernas\.([\w.]+)", ast.unparse(node.func))):
            yield found[1], node


def bound(name: str, call: ast.Call) -> None:
    """Fails where the surface has no such name, or where what it names takes no such arguments."""
    of: Any = hiernas
    for part in name.split("."):
        of = getattr(of, part)
    if name == "cost" and len(call.args) == 2:  # an architecture, and a latency table
        of = of.dispatch(hiernas.Architecture)
    inspect.signature(of).bind(*call.args, **{k.arg: None for k in call.keywords if k.arg})


def source(text: str) -> str:
    """The code alone of an example, with or without prompts."""
    return doctest.script_from_examples(text) if ">>>" in text else text


@pytest.fixture(scope="module")
def space_for_examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "_by_dynamo", runtimes._by_tracing)
        patch.chdir(folder)
        yield folder


def test_examples_do_what_they_say(space_for_examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(space_for_examples)
    runner, parser, names = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), doctest.DocTestParser(), {"hiernas": hiernas}
    for name, text in sessions():
        test = parser.get_doctest(text, names, name, None, 0)
        said: list[str] = []
        assert runner.run(test, out=said.append, clear_globs=False).failed == 0, "".join(said)
        names |= test.globs
    assert runner.tries > 40


def test_every_public_name_has_an_example() -> None:
    shown = "\n".join(text for _, text in sessions())
    assert not [name for name in hiernas.__all__ if name != "__version__" and f"hiernas.{name}" not in shown]
    assert all(">>> " in text for _, text in docstrings())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pages_show_of_python_can_be_called(page: Path) -> None:
    for block in BLOCK.findall(page.read_text()):
        for name, call in calls(source(block)):
            bound(name, call)


def test_examples_that_take_minutes_can_be_called() -> None:
    examples = [e for _, text in docstrings() for e in doctest.DocTestParser().get_examples(text)]
    skipped = [e.source for e in examples if doctest.SKIP in e.options]
    assert [name for code in skipped for name, _ in calls(code)] == ["rank"]
    for code in skipped:
        for name, call in calls(code):
            bound(name, call)
    with pytest.raises(TypeError, match="netwroks"):
        bound(*next(calls("hiernas.rank('r', netwroks=3)")))


def test_the_notebook_calls_what_there_is_and_shows_nothing_garbled() -> None:
    text = (ROOT / "examples" / "digits.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    found = [each for cell in cells for each in calls("".join(cell["source"]))]
    for name, call in found:
        bound(name, call)
    assert {"check", "hnas", "evaluate", "export", "train"} <= {name for name, _ in found}
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 8
    assert not [output for output in outputs if output["output_type"] == "error" or "\\u001b" in json.dumps(output)]
    assert len(text) < 20_000


def test_the_block_of_the_readme_runs(few: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = hiernas.HNASConfig.preset()
    monkeypatch.setattr(runtimes, "_by_dynamo", runtimes._by_tracing)
    monkeypatch.setattr(settings, "MADE_FOR", {})
    short = settings.with_settings(config, ["epochs=1,1,1", "population=4", "generations=1", "final_epochs=1"])
    monkeypatch.setitem(METHODS["hnas"].presets, "quick", short)  # type: ignore[index] # a dict
    (tmp_path / "my_images").symlink_to(few)
    Image.open(next(Path(few).rglob("*.png"))).convert("RGB").resize((9, 11)).save("new_image.jpg")
    names: dict[str, Any] = {}
    exec("\n".join(BLOCK.findall((ROOT / "README.md").read_text())), names)
    assert len(names["rows"]) >= 4
    assert names["network"].classes == tuple("0123456789")


# -- the functions are the commands ------------------------------------------------------------------------------------


def test_a_function_has_the_options_of_its_command() -> None:
    for name in COMMANDS:
        has = set(inspect.signature(getattr(hiernas, name)).parameters) - {"on_event", "progress"}
        asked, _ = cli.asked_by(getattr(cli, name))
        assert has == {f.rstrip("_") for f in inspect.signature(asked).parameters} - {"json"}, name
    assert "open" in inspect.signature(hiernas.report).parameters


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hiernas.check(limits="latncy<=3"), "check --limit latncy<=3"),
        (lambda: hiernas.check("hnsa"), "check hnsa"),
        (lambda: hiernas.check(preset="quik", limits=["params<=1M"]), "check --preset quik"),
        (lambda: hiernas.check(threads=0), "check --threads 0"),
        (lambda: hiernas.check(threads="two"), "check --threads two"),
        (lambda: hiernas.check(time="soon"), "check --time soon"),
        (lambda: hiernas.check(limits="params<=1k"), "check --limit params<=1k"),
        (lambda: hiernas.train("best.json", inherit=True), "train best.json --inherit"),
        (lambda: hiernas.train("best.json", seed=-1), "train best.json --seed -1"),
        (lambda: hiernas.train("best.json", lr=-1), "train best.json --lr -1"),
        (lambda: hiernas.train(Path("best.json"), settings="epochs=3"), "train best.json --set epochs=3"),
        (lambda: hiernas.export("nowhere", to="onxx"), "export nowhere --to onxx"),
        (lambda: hiernas.report("nowhere"), "report nowhere"),
        (lambda: hiernas.rank("nowhere", networks=1), "rank nowhere --networks 1"),
        (lambda: hiernas.compare("nowhere", seeds=2), "compare nowhere --seeds 2"),
        (lambda: hiernas.compare(methods=["hnas", "plane"]), "compare --methods hnas,plane"),
        (lambda: hiernas.measure("tinny"), "measure tinny"),
        (lambda: hiernas.measure("tiny", import_file="m.json", calibrate=9), "measure tiny --import m.json --calibrate 9"),
        (lambda: hiernas.measure("tiny", input_size=(3, 99999, 99999)), "measure tiny --input-size 3,99999,99999"),
        (lambda: hiernas.evaluate("nowhere"), "evaluate nowhere"),
        (lambda: hiernas.cost("fbnet-d"), "cost fbnet-d"),
    ],
)  # fmt: skip
def test_a_mistake_has_the_sentence_of_the_command_line(
    call: Callable[[], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HiernasError) as raised:
        call()
    monkeypatch.setenv("COLUMNS", "400")
    done = CliRunner().invoke(cli.app, words.split())
    said = str(done.exception) if isinstance(done.exception, HiernasError) else done.output
    assert str(raised.value) in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limits": 5}, "limits=5 cannot be used; give a text or a list of texts"),
        ({"limits": ["params<=1M", 5]}, "limits=['params<=1M', 5] cannot be used; give a text or a list of texts"),
        ({"threads": 0}, "'--threads': Input should be greater than or equal to 1"),
        ({"threads": "two"}, "'--threads': Input should be a valid integer"),
        ({"settings": {"epochs": 3}}, "settings={'epochs': 3} cannot be used; give a text or a list of texts"),
        ({"latency_table": 3}, "latency_table=3 cannot be used; give a path"), ({"time": -3}, "--time -3s: write a number"),
        ({"preset": None}, "preset=None cannot be used; give a text"), ({"on_event": 5}, "on_event=5 cannot be called"),
        ({"out": 5}, "out=5 cannot be used; give a path"), ({"int8": "x"}, "int8='x' cannot be used; give True or False"),
        ({"space": 3}, "space=3 is no space; give a SearchSpace or a name"),
        ({"calibrate": "x"}, "'--calibrate': Input should be"), ({"seed": -1}, "'--seed': Input should be greater"),
    ],
)  # fmt: skip
def test_searches_refuse_what_is_of_another_type(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(HiernasError, match=re.escape(said)):
        hiernas.random_search(**{"space": "tiny", "out": tmp_path / "r", **given})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hiernas.load(None), "None is no run; name its folder"),
        (lambda: hiernas.known(3), "unknown network '3'; known: proxyless"),
        (lambda: hiernas.load_data(""), "'' is not a data source; give 'digits', a folder"),
        (lambda: hiernas.load_data({"train": []}), "a dict is not a data source; give 'digits', a folder"),
        (lambda: hiernas.load_data(([[0]], [1])), "is a list; it must be a pair (image, label), as list(zip(images, labels))"),
        (lambda: hiernas.chain_space("own", (1, 8, 8), 3, stem=8, head=8, stages=[hiernas.Stage(8, 2, 1, ("k3_e3",))]),
         "stage 1: 'k3_e3' is no operation; give objects"),
    ],
)  # fmt: skip
def test_python_refuses_what_is_of_another_type(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(HiernasError, match=re.escape(said)):
        call()


def test_a_trained_network_takes_pixels_alone(tmp_path: Path) -> None:
    architecture = hiernas.spaces.tiny((1, 8, 8), 10).sample(np.random.default_rng(0))
    facts = Facts({}, tuple("abcdefghij"), (0.5,), (0.2,), (1, 8, 8))
    network = TrainedNetwork(architecture, architecture.build().eval(), facts)
    assert network(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)
    for wrong in (torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.zeros((2, 1, 8, 8), np.uint8)):
        with pytest.raises(DataError, match=r"takes a uint8 tensor \[B, 1, 8, 8\] of pixels in 0\.\.255, and was given"):
            network(wrong)
    (tmp_path / "best.onnx").write_bytes(b"no weights")
    with pytest.raises(RunError, match=r"best\.onnx is damaged, or no file of weights \(.*\); put it back, or name a run"):
        hiernas.load(tmp_path / "best.onnx")


def test_a_name_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^No such option: thread; did you mean 'threads'\?$"):
        hiernas.check(thread=2)
    with pytest.raises(ConfigError, match=r"^train: missing a required argument: 'source'$"):
        hiernas.train()
    with pytest.raises(ConfigError, match=r"^check: too many positional arguments$"):
        hiernas.check("hnas", "tiny")


def test_nothing_is_printed_unless_asked(few: str, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[str] = []
    asked = {"data": few, "limits": "params<=60k", "settings": ["final_epochs=1"], "space": hiernas.spaces.tiny((1, 8, 8), 10)}
    found = hiernas.check("random", **asked, on_event=lambda event: events.append(event["event"]))
    assert capsys.readouterr() == ("", "")
    assert "rehearsal" in events
    shown = hiernas.check("random", **asked, progress=True)
    assert "timing a search in miniature" in capsys.readouterr().out
    words = ["check", "random", "--data", few, "--limit", "params<=60k", "--set", "final_epochs=1", "--space", "tiny", "--json"]
    printed = json.loads(CliRunner().invoke(cli.app, words).stdout)
    for each in (found, shown, printed):  # seconds are measured
        del each["seconds"], each["total_seconds"]
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(shown)) == printed


def test_images_that_are_loaded_are_taken(space_for_examples: Path, few: str, tmp_path: Path) -> None:
    data = hiernas.load_data(few)
    config = hiernas.HNASConfig(stages=2, epochs=[1], lr=[0.1], population=4, generations=0, final_epochs=1)
    found = hiernas.hnas("tiny", data, "params<=60k", config, out=tmp_path / "r")
    assert hiernas.evaluate(found.run_folder, data=data)["accuracy"] == pytest.approx(found.test_accuracy)
    with pytest.raises(DataError, match=r"has images of \(1, 9, 9\), and the network takes \(1, 8, 8\)"):
        hiernas.evaluate(found.run_folder, data=hiernas.load_data(few, image_size=9))
    again = hiernas.train(tmp_path / "r" / "best.json", data=data, epochs=1, log="csv", out=tmp_path / "t")
    assert (again / "scalars.csv").read_text().startswith("phase,step,name,value\nfinal,1,")
    with pytest.raises(ConfigError, match=r"^data=ImageData.* cannot be used; give a text$"):
        hiernas.compare(data=data)


# -- what type checkers read -------------------------------------------------------------------------------------------


MODULES = "hiernas.space", "hiernas.data.split", "pathlib", "collections.abc", "typing", "torch.utils.data.dataset"
BEGINNING = """\
# Types of the public names, for editors and type checkers; written by tests/test_python.py.

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch.utils.data import Dataset

from hiernas import spaces as spaces
"""
COST = """
__version__: str
__all__: list[str]

@overload
def cost(architecture: Architecture, latency: Latencies | None = None, /) -> Cost: ...
@overload
"""


def stub() -> str:
    """The names with their types: functions of commands as they are, all else from where it is."""
    homes = {name: home for home, names in hiernas._NAMES.items() for name in names if name not in (*COMMANDS, "spaces")}
    lines = [f"from hiernas.{home} import {name} as {name}\n" for name, home in homes.items()]
    lines += ["from hiernas.costs.tables import Cost\n", "from hiernas.costs.tables import LatencyTable as Latencies\n"]
    lines = [*sorted(lines), COST]
    for name in ("cost", *(c for c in COMMANDS if c != "cost")):
        signature = re.sub(rf"\b({'|'.join(map(re.escape, MODULES))})\.", "", str(inspect.signature(getattr(hiernas, name))))
        given, _, returned = signature.rpartition(") -> ")
        inside = textwrap.fill(given[1:], 120, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
        lines.append(f"def {name}(\n{inside},\n) -> {returned}: ...\n")
    return BEGINNING + "".join(lines).replace("| Dataset", "| Dataset[Any]").replace("'", '"')


STUB = ROOT / "src" / "hiernas" / "__init__.pyi"


def test_types_are_those_of_the_functions() -> None:
    assert STUB.read_text() == stub(), "python tests/test_python.py writes it again"
    assert (STUB.parent / "py.typed").exists()


if __name__ == "__main__":
    STUB.write_text(stub())

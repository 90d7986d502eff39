"""The Hugging Face hub: what is put there of a run, with a model card, and the networks that are loaded from there."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from safetensors import safe_open

from hiernas.errors import ConfigError, RunError
from hiernas.host import first_line, quiet, visible
from hiernas.methods import FILES
from hiernas.names import SPACES
from hiernas.report import units
from hiernas.report.kit import TEMPLATES, Run
from hiernas.report.page import finished, page, summary, telling
from hiernas.report.trust import Evaluation, verdict
from hiernas.run.disk import SUMS, Checksums, to_yaml, write_whole
from hiernas.run.folder import RunFolder
from hiernas.run.settings import sealed

NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # repository and revision
TAKEN = ("best.json", "best.onnx", "best.safetensors")  # as they are
NEEDED = ("best.json", "best.safetensors", "config.yaml", SUMS)  # to load the network
SETTINGS = (  # of config.yaml: all but where things lie on the machine
    "format", "hiernas", "method", "preset", "seed", "space", "limits", "automatic_limit", "runtime", "threads", "config",
    "train", "final_recipe", "fitted", "timed", "corrected", "environment",
)  # fmt: skip
FOLDERS = re.compile(r"(?<![\w:/\\.])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\",;:()\\/]+[\\/])+")  # of an absolute path


def fetched(source: str | Path) -> Path:
    """A path as it is; for hf:USER/NAME[@REVISION] the run folder in the hub's cache, compared with its own checksums.

    Raises `RunError` where there is no such network, it is damaged or not to be reached; `ConfigError` without hiernas[hub].
    """
    if not (name := str(source)).startswith("hf:"):
        return Path(source)
    (repo, revision), hub = _named(name), _library(name)
    with _telling(name, "check the network; what was loaded once is there without it"):
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=list(NEEDED)))
    for file in NEEDED:
        if not (folder / file).is_file():
            raise RunError(f"{name} holds no network of HierNAS: it has no {file}; name one that `hiernas push` put there")
        if not Checksums(folder).holds(file):
            then = f"delete {folder.parents[1]} to load it anew, or tell its owner"
            raise RunError(f"{name} was damaged or edited: its {file} is not what its {SUMS} says; {then}")
    return folder


def push(
    run: str | Path, to: str, *, private: bool = False, license: str | None = None, with_images: bool = False,
    dry_run: str | Path | None = None, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Put the trained network of a finished run on the hub as hf:USER/NAME, in one commit, with a model card and a report.

    No path of this machine goes there and, but for `with_images`, no image. `license`: what the card says. `dry_run`: a new
    folder to write instead. `say` is told what goes there before it does. Raises `RunError` or `ConfigError`.
    """
    repo, revision = _named(to)
    if revision is not None:
        raise ConfigError(f"{to}: a network is put on the main branch; leave @{revision} out")
    folder, hub = RunFolder.open(run), None if dry_run is not None else _library(to)
    if hub and hub.get_token() is None:
        raise ConfigError(f"{to}: there is no token to write with; get one by `hf auth login`, or set HF_TOKEN")
    result = finished(folder)
    worst = result.get("tested", {}).get("worst", [])
    files = _files(folder, _public(result, worst if with_images else []), repo, license)
    sizes = ", ".join(f"{name} ({units.short(len(held))}B)" for name, held in sorted(files.items()))
    say(f"for {to}: {sizes}".replace(units.SPACE, " "))
    say(f"they name the images '{result['data']['name']}', their classes and the processor here; "
        f"{f'{len(worst)} of the test images are' if with_images else 'no image is'} among them")  # fmt: skip
    if dry_run is None:
        _send(hub, to, repo, files, private, say)
    else:
        _write(Path(dry_run), files)
        say(f"written to {dry_run}; nothing was sent")


def _send(hub: Any, to: str, repo: str, files: Mapping[str, bytes], private: bool, say: Callable[[str], None]) -> None:
    api, again = hub.HfApi(), "check the network, and give the command again: a commit is there whole or not at all"
    with _telling(to, again):
        api.create_repo(repo, private=private or None, exist_ok=True)
        found = api.model_info(repo)
        there = {each.rfilename for each in found.siblings or ()} - {".gitattributes", "README.md", "LICENSE"}
        if private and not found.private:
            raise RunError(f"{to} is there already and public; make it private in its settings, or leave --private out")
        if there and "best.safetensors" not in there:
            raise RunError(f"{to} holds something else ({', '.join(sorted(there)[:3])}); name another repository")
    say(f"{to} is {'private' if found.private else 'public'}")
    with _telling(to, again):
        added = [hub.CommitOperationAdd(name, held) for name, held in files.items()]
        api.create_commit(repo, added, commit_message="A network found by HierNAS")
    say(f"sent: {api.endpoint}/{repo}")


def _named(text: str) -> tuple[str, str | None]:
    if (match := NAME.fullmatch(text)) is None:
        raise ConfigError(f"'{text}' is no network of the hub; write hf:USER/NAME, or to load one hf:USER/NAME@REVISION")
    return match[1], match[2]


def _library(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError(f"{name} needs huggingface_hub, which is not installed: pip install 'hiernas[hub]'") from None
    return huggingface_hub


@contextmanager
def _telling(name: str, then: str) -> Iterator[None]:
    """Inside, what the hub's library says is kept away, and what it raises is one sentence; `then`: the way out."""
    try:
        with quiet():
            yield
    except Exception as error:  # of many types, and of those of the libraries that it builds on
        if isinstance(error, RunError) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            raise
        kinds, status = str(type(error).__mro__), getattr(getattr(error, "response", None), "status_code", None)
        why = error.__cause__ if "LocalEntryNotFound" in kinds and isinstance(error.__cause__, Exception) else error
        said = f"{name} cannot be reached ({first_line(why).split('. ')[0]}); {then}"
        if "RevisionNotFound" in kinds:
            said = f"{name} has no such revision; name a branch, a tag or a commit of it"
        elif "RepositoryNotFound" in kinds:
            said = f"there is no {name}, or it is not open to you; check the name, or log in with `hf auth login`"
        elif status in (401, 403):
            said = f"{name}: the hub does not accept the token, or not for this; `hf auth login` takes one that may"
        elif isinstance(error, ValueError):  # a name or a card that the library or the hub refuses
            said = f"{name} is not taken by the hub: {' '.join(str(error).split())}"
        raise RunError(said) from error


def _public(result: Mapping[str, Any], worst: list[Any]) -> dict[str, Any]:
    """A result without what names files, and with these pictures only."""
    tested = {"tested": {**result["tested"], "worst": worst}} if "tested" in result else {}
    return {**_without_folders(result), "data": {**result["data"], "notes": []}, **tested}


def _without_folders(value: Any) -> Any:
    """Values whose texts have no absolute path: '/home/me/data/x.png' -> 'x.png'."""
    if isinstance(value, Mapping):
        return {k: _without_folders(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_folders(v) for v in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def _files(run: RunFolder, result: Mapping[str, Any], repo: str, license: str | None) -> dict[str, bytes]:
    """By name; together a run folder that `hiernas.load` reads."""
    files = dict[str, bytes]()
    for name in TAKEN:
        run.check(name)
        if not (run.path / name).exists():
            raise RunError(f"{run.path / name} is gone; `hiernas resume {run.path}` writes it again")
        files[name] = (run.path / name).read_bytes()
    files["result.json"] = (json.dumps(result, indent=1, allow_nan=False) + "\n").encode()
    files[SUMS] = "".join(f"{hashlib.sha256(held).hexdigest()}  {name}\n" for name, held in sorted(files.items())).encode()
    config = {key: _without_folders(run.config[key]) for key in SETTINGS if key in run.config}
    config |= {"data": {**run.config["data"], "source": None}, "latency_table": None}
    files["config.yaml"] = sealed(to_yaml(config)).encode()
    run.check("events.jsonl")
    with telling(run.path / "result.json"):
        shown = page(Run(Path("RUN"), result, run.events()))
        texts = {"README.md": card(repo, result, run, license), "report.html": shown}
    return files | {name: "\n".join(map(visible, text.split("\n"))).encode() for name, text in texts.items()}


def card(repo: str, result: Mapping[str, Any], run: RunFolder, license: str | None = None) -> str:
    """README.md for the hub: metadata in YAML, then how good the network is, how it is used and how it was made."""
    with safe_open(run.path / "best.safetensors", "np") as file:
        mean, std = (json.loads(file.metadata()[key]) for key in ("mean", "std"))
    tested, source = Evaluation.read(result), run.config["data"].get("source") or ""
    return TEMPLATES.get_template("card.md").render(
        repo=repo, result=result, license=license, mean=mean, std=std, verdict=verdict(result, {}), summary=summary(result),
        md=md, by_class=tested.by_class if tested else [], of_hub=source[3:] if source.startswith("hf:") else "",
        method=FILES.get(result["method"], ("", ""))[1], paper=SPACES.get(result["space"]["name"], "its own"),
    )  # fmt: skip


def md(text: object) -> Markup:
    """A text as Markdown shows it, whatever is in it; arXiv numbers are links."""
    shown = escape(re.sub(r"([\\`*_\[\]|~])", r"\\\1", visible(str(text))))
    return Markup(re.sub(r"arXiv (\d{4}\.\d{4,5}(v\d)?)", r"[arXiv \1](https://arxiv.org/abs/\1)", shown))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(f"--dry-run {folder} is not empty; name a new folder")
    for name, held in files.items():
        write_whole(folder / name, held)

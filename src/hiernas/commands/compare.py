"""`hiernas compare`: a study of methods under the same limits, or finished runs side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hiernas.commands import CompareOptions, Table, split_settings
from hiernas.errors import RunError
from hiernas.report import study as results
from hiernas.report import units
from hiernas.report.page import finished, write_report
from hiernas.report.study import Row
from hiernas.run.disk import on_disk, write_whole
from hiernas.run.folder import Listener, RunFolder, owned
from hiernas.run.request import OPTIONS, reading
from hiernas.run.study import FILE, Study, begin, entries_of, spread, work

SHARED = ("latency_table", "runtime", "threads", "preset")  # of the requests, beside how data are read


@dataclass(frozen=True)
class Compared:
    """What came of it: finished runs, and in sentences what is not there or makes them unlike."""

    rows: Sequence[Row]
    missing: Sequence[str]
    page: Path | None  # that was written

    def tables(self) -> list[Table]:
        """For the terminal: columns, lines and remarks."""
        found = list[Any]()
        for limit in results.limits_of(self.rows):
            lines = results.table(self.rows, limit)
            shown = [i for i in range(len(results.COLUMNS)) if any(line[i] != units.NONE for line in lines)]
            columns = [results.COLUMNS[i] for i in shown]
            found.append(([f"under {limit}", *columns[1:]], [[line[i] for i in shown] for line in lines], [""]))
            pairs = [[d.label, d.other, str(d)] for d in results.differences(self.rows) if d.limit == limit]
            if pairs:
                found.append((["", "over", "points (95 % interval)"], pairs, [""]))
        where = [] if self.page is None else [f"everything is in {self.page.parent}; open {self.page}"]
        found[-1][2].extend([*results.verdicts(self.rows), *self.missing, *where])
        return found

    def to_json(self) -> dict[str, Any]:
        """Runs, differences, verdicts, and what is missing."""
        return {**results.as_json(self.rows), "missing": list(self.missing)}


def compare(asked: CompareOptions, listener: Listener) -> Compared:
    """Begin or go on with a study, or put finished runs side by side."""
    runs = asked.runs or []
    if runs and not (runs[0] / FILE).exists():
        rows = _told_apart([_row(run) for run in runs])
        remarks = _unlike(rows)
        return Compared(rows, remarks, None if asked.out is None else _written(rows, asked.out, remarks))
    study = Study.open(runs[0]) if runs else _begun(asked, listener)
    listener({"event": "study", "path": str(study.path), "of": len(list(study.jobs()))})
    if asked.jobs == 1 and asked.backend is None:
        failed = work(study.path, listener)
    else:
        failed = spread(study, asked.jobs, asked.backend or "loky", listener)
    return summarised(study.path, failed)


def page_of(run: Path) -> Path | None:
    """The page of a study or a run, written again."""
    if (run / FILE).exists():
        return summarised(run).page
    with owned(RunFolder.open(run)) as folder:
        return write_report(folder)


def _begun(asked: CompareOptions, listener: Listener) -> Study:
    of_space, settings = split_settings(asked.settings)
    request: dict[str, Any] = {k: getattr(asked, k) for k in (*SHARED, *(o for o in OPTIONS if o != "seed"))}
    data = str(Path(asked.data).resolve()) if Path(asked.data).exists() else asked.data
    table = asked.latency_table and str(asked.latency_table.resolve())
    entries = entries_of(asked.methods, asked.space, of_space)
    request |= {"data": data, "settings": settings, "latency_table": table}
    return begin(asked.out or Path("study"), entries, asked.limits or (), asked.seeds, request, listener)


def summarised(path: Path, failed: dict[str, str] | None = None) -> Compared:
    """What a study has so far; its files are written."""
    found = standing(path, failed)
    return replace(found, page=_written(found.rows, path, found.missing))


def standing(path: Path, failed: dict[str, str] | None = None) -> Compared:
    """What a study has so far; it is only read."""
    jobs, failed = list(Study.open(path).jobs()), failed or {}
    rows = [_row(job.path, job.label, job.limit) for job in jobs if job.done]
    missing = [f"failed: {job.label}, seed {job.seed}: {failed[str(job.path)]}" for job in jobs if str(job.path) in failed]
    waiting = len(jobs) - len(rows) - len(missing)
    if waiting:
        missing.append(f"{waiting} of {len(jobs)} runs are not done; `hiernas compare {path}` goes on, unless others do")
    if not rows:
        raise RunError(f"no run of {path} is finished; {'; '.join(missing)}")
    return Compared(rows, missing, page if (page := path / "study.html").exists() else None)


def _row(path: Path, *words: str) -> Row:
    return Row.of(path, finished(RunFolder.open(path), search=True), *words)


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """With the folder beside the method, where runs of one method differ in more than their seeds."""
    known = Counter((row.label, row.limit, row.seed) for row in rows)
    twice = {label for (label, _, _), n in known.items() if n > 1}
    return [replace(row, label=f"{row.label} ({row.folder})") if row.label in twice else row for row in rows]


def _unlike(rows: Sequence[Row]) -> list[str]:
    """What beside the search differs between runs, in sentences. Raises `RunError` where they were tested on other images."""
    said, first = list[str](), dict[int, tuple[Row, Mapping[str, Any]]]()
    for row in rows:
        if row.data != rows[0].data:
            raise RunError(
                f"{row.folder} was tested on '{row.data}' and {rows[0].folder} on '{rows[0].data}': accuracies on other images "
                "say nothing of networks side by side; name runs on the same images"
            )
        with reading(RunFolder.open(Path(row.folder))) as config:
            how = {key: config["data"][key] for key in (*OPTIONS, "fingerprint")}
            training = {key: config["config"].get(key) for key in ("final_epochs", "final_lr", "train")}
            how |= {**training, "train": config.get("final_recipe", training["train"])}
        other, theirs = first.setdefault(row.seed, (row, how))
        unlike = [key for key in how if how[key] != theirs[key]]
        shown = [f"{key} {theirs[key]} and {how[key]}" for key in unlike if key not in ("fingerprint", "train")]
        what = ["images"] * ("fingerprint" in unlike) + ["final training"] * bool({*training} & {*unlike})
        if what:
            words = f" ({', '.join(shown)})" if shown else ""
            said.append(f"{other.folder} and {row.folder} differ in more than the search, in {' and '.join(what)}{words}")
    return said


def _written(rows: Sequence[Row], folder: Path, remarks: Sequence[str] = ()) -> Path:
    """The page of a study, which is written with its other files."""
    with on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in results.files(rows, folder, remarks).items():
        write_whole(folder / name, text.encode())
    return folder / "study.html"

"""The graph of a file of torch.export (`.pt2`), read without torch's own reader: that one may run what a file tells it to.

Such a file is a zip archive. Of it only the JSON that describes the program is read; names in it stay names. A few known
operations are done on meta tensors, which hold no numbers, to count multiply-adds. Weights, sample inputs, expressions
and all else are left unread.
"""

from __future__ import annotations

import json
import math
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import AliasPath, BaseModel, Field, ValidationError

from hiernas.errors import UNREADABLE, SpaceError, problem
from hiernas.host import first_line
from hiernas.networks.graph import Graph, Reader

LARGEST = 2**28  # bytes of JSON
COUNTED = frozenset({  # the operations that have multiply-adds
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "linear",
    "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum", "scaled_dot_product_attention",
})  # fmt: skip
VALUES = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string")  # of arguments, as they are


class _Node(BaseModel):
    name: str | None = None  # older files name the outputs alone
    target: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    metadata: dict[str, Any] = {}


class _Program(BaseModel):
    nodes: list[_Node] = Field(validation_alias=AliasPath("graph_module", "graph", "nodes"))
    tensor_values: dict[str, dict[str, Any]] = Field(validation_alias=AliasPath("graph_module", "graph", "tensor_values"))
    input_specs: list[dict[str, Any]] = Field(validation_alias=AliasPath("graph_module", "signature", "input_specs"))
    output_specs: list[dict[str, Any]] = Field(validation_alias=AliasPath("graph_module", "signature", "output_specs"))


def graph_of_file(path: Path) -> Graph:
    """The graph of a program that torch.export.save wrote, from its first input to its first output.

    Raises `SpaceError` for any other file, and where no layers lead from one to the other.
    """
    try:
        return _read(_Program.model_validate(_description(path)))
    except SpaceError:
        raise
    except ValidationError as error:
        reason = problem(error.errors()[0])
    except (OSError, EOFError, zipfile.BadZipFile, RuntimeError, *UNREADABLE) as error:  # torch's, of sizes that do not fit
        reason = first_line(error)
    made_by = "`hiernas export RUN --to pt2` or torch.export.save"
    raise SpaceError(f"{path} cannot be read as a program of torch.export: {reason}; write one with {made_by}")


def _description(path: Path) -> Any:
    if not path.is_file():
        raise ValueError("there is no such file")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(("models/model.json", "serialized_exported_program.json")):
                if entry.file_size > LARGEST:
                    raise ValueError(f"its description has {entry.file_size:,} bytes, and {LARGEST:,} are read at most")
                return json.loads(archive.read(entry))
    raise ValueError("it holds no model.json")


def _read(program: _Program) -> Graph:
    given = [each["parameter"] for each in program.input_specs if each.get("parameter")]
    parameters = {str(each["arg"]["name"]): str(each["parameter_name"]) for each in given}
    start, end = _first(program.input_specs, "user_input"), _first(program.output_specs, "user_output")
    reader, values = Reader(start, parameters), program.tensor_values
    reader.batch = max(1, _sizes(values[start])[0])
    for node in program.nodes:
        taken = list(dict.fromkeys(name for each in node.inputs for name in _tensors(each["arg"])))
        outputs = [name for each in node.outputs for name in _tensors(each)]
        words = node.target.split(".")
        operation = words[3] if words[:3] == ["torch", "ops", "aten"] and len(words) == 5 else words[-1]
        stack = str(node.metadata.get("nn_module_stack") or "")  # "key,path,class;key,path,class"
        kinds = {path: kind for _, path, kind in (each.split(",", 2) for each in stack.split(";") if each)}
        counted = words[:3] == ["torch", "ops", "aten"] and operation in COUNTED
        run = partial(_run, operation, words[-1], node, values) if counted else None
        if len(outputs) == 1:
            reader.read(outputs[0], operation, taken, kinds, run)
        elif outputs:  # several results: as in a program, a call, and one more that takes out each of them
            whole = node.name or f"{outputs[0]} (whole)"
            reader.read(whole, operation, taken, kinds, run)
            for name in outputs:
                reader.read(name, "getitem", [whole], kinds, None)
    return reader.graph(end, {of: math.prod(_sizes(values[name])) for name, of in parameters.items()})


def _first(specs: list[dict[str, Any]], kind: str) -> str:
    return next((name for each in specs if each.get(kind) for name in _tensors(each[kind]["arg"])), "")


def _tensors(argument: Any) -> list[str]:
    """The names of the tensors in an argument, which may be one, several, or such as need not be there."""
    if isinstance(argument, list):
        return [name for each in argument for name in _tensors(each)]
    if not isinstance(argument, dict):
        return []
    inner = [name for kind, value in argument.items() if "tensor" in kind for name in _tensors(value)]
    return [str(argument["name"])] if "name" in argument else inner


def _sizes(value: dict[str, Any]) -> list[int]:
    """The shape of a tensor; of a size that may vary the one it was traced with."""
    sizes = [s["as_int"] if "as_int" in s else (s["as_expr"]["hint"] or {"as_int": 1})["as_int"] for s in value["sizes"]]
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError(f"the shape {sizes} of a tensor")
    return sizes


def _run(operation: str, overload: str, node: _Node, values: dict[str, dict[str, Any]]) -> None:
    """Do one of the `COUNTED` operations on meta tensors."""
    known = getattr(torch.ops.aten, operation)
    getattr(known, overload)(**{each["name"]: _argument(each["arg"], values) for each in node.inputs})


def _argument(argument: dict[str, Any], values: dict[str, dict[str, Any]]) -> Any:
    tensors = [torch.empty(_sizes(values[name]), device="meta") for name in _tensors(argument)]
    if "as_tensors" in argument:
        return tensors
    return tensors[0] if tensors else next((argument[kind] for kind in VALUES if kind in argument), None)

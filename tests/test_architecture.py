"""The shape of the code: layers, what may load torch, what importing may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "sintonia"
LAYERS = (
    {"cli"},
    {"api"},
    {"jobs", "serving", "evaluation", "migration", "workflow"},
    {"training"},
    {"objectives"},
    {"graders"},
    {"generation"},
    {"data", "models", "runs", "store", "bases"},
    {
        "domain",
        "errors",
        "settings",
        "catalog",
        "plugins",
        "ids",
        "failpoints",
        "sealed",
        "parent",
        "cores",
        "weights",
    },
)
"""From the top; an import may only go down, or stay in its package."""
SIBLINGS = {
    ("models", "data"),  # weights score forests
    ("bases", "data"),  # a base is taken in only when its chat can be rendered
    ("models", "runs"),  # adapters have the settings of a spec
    ("objectives", "models"),
    ("jobs", "runs"),
}
"""Imports within one layer, each with its reason."""
NEVER = {"jobs": {"training", "objectives", "models", "generation", "workflow"}}
TORCH_ALLOWED = ("models", "training", "objectives", "generation/engines/native")
HEAVY = {"torch", "transformers", "peft", "trl"}
ASYNC_ALLOWED = ("api", "serving", "generation", "graders", "evaluation")

MODULES = sorted(SOURCE.rglob("*.py"))


def rank(part: str) -> int:
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"{part} belongs to no layer")


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_parts(path: Path) -> set[str]:
    names = [name.split(".") for name in imports_of(path) if name.startswith("sintonia.")]
    folders = {p.name for p in SOURCE.iterdir()} | {p.stem for p in SOURCE.glob("*.py")}
    return {name[1] for name in names if name[1] in folders}


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def goes_down(part: str, other: str) -> bool:
    if other in NEVER.get(part, set()):
        return False
    both_at_the_bottom = rank(part) == rank(other) == len(LAYERS) - 1
    return rank(other) > rank(part) or both_at_the_bottom or (part, other) in SIBLINGS


def test_imports_only_go_down():
    wrong = [
        f"{relative(path)} imports {other}"
        for path in MODULES
        for other in own_parts(path) - {part_of(path), "__init__"}
        if part_of(path) != "__init__" and not goes_down(part_of(path), other)
    ]
    assert not wrong


def test_torch_is_imported_only_where_tensors_are():
    light = [path for path in MODULES if not relative(path).startswith(TORCH_ALLOWED)]
    roots = {relative(p): {name.split(".")[0] for name in imports_of(p)} & HEAVY for p in light}
    assert not {path: found for path, found in roots.items() if found}


def test_async_functions_stay_at_the_rim():
    wrong = [
        relative(path)
        for path in MODULES
        if not relative(path).startswith(ASYNC_ALLOWED)
        and any(isinstance(node, ast.AsyncFunctionDef) for node in nodes(path))
    ]
    assert not wrong


def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_nothing_that_runs_code_from_data_is_used():
    modules = {"pickle", "marshal", "dill", "joblib", "shelve"}
    calls = {"eval", "exec", "os.system", "torch.load", "yaml.load"}
    flags = {"shell": "True", "trust_remote_code": "True"}
    for path in MODULES:
        assert not {name.split(".")[0] for name in imports_of(path)} & modules, relative(path)
        for node in nodes(path):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in calls, relative(path)
                given = {(k.arg, ast.unparse(k.value)) for k in node.keywords}
                assert not given & set(flags.items()), relative(path)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_light_module_imports_without_torch_output_network_or_environment():
    light = [
        module_name(path)
        for path in MODULES
        if not str(path.relative_to(SOURCE)).startswith(TORCH_ALLOWED)
        and path.name != "__main__.py"
        and "migrations" not in path.parts
    ]
    code = f"""
import sys, socket, os
def no_network(*a, **k): raise AssertionError('network at import')
socket.socket.connect = no_network
import importlib
for name in {light!r}:
    importlib.import_module(name)
heavy = {sorted(HEAVY)!r}
loaded = [name for name in heavy if name in sys.modules]
assert not loaded, loaded
import logging
assert not logging.getLogger().handlers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_every_heavy_module_imports_in_silence():
    heavy = [
        module_name(path)
        for path in MODULES
        if str(path.relative_to(SOURCE)).startswith(TORCH_ALLOWED)
    ]
    code = f"import importlib\nfor name in {heavy!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_public_surfaces_are_sorted_and_complete():
    import sintonia

    assert sintonia.__all__ == sorted(sintonia.__all__)
    for name in sintonia.__all__:
        assert callable(getattr(sintonia, name))

"""What a stage's result depends on: its command, the code it imports, its inputs, its parameters.

Two runs with the same fingerprint would do the same work, so the second is not needed. Everything is compared by
content, never by time stamps: an input that was made again with the same bytes does not run the next stage again.

Code is every module of this project that the stage's script imports, directly or through others, found by reading
the sources (`ast`), not by running them. Comments, layout and docstrings do not count. Libraries do not count
either: an upgrade does not retrain a model; remove RESULTS/.stages to run everything again.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

from run_directory import InputError, sha256_file

SOURCE_ROOT = Path(__file__).resolve().parents[1]  # every package of this project lies here
REPOSITORY = SOURCE_ROOT.parents[1]


def fingerprint(
    command: list[str],
    inputs: list[Path],
    parameters: dict[str, str],
    results_dir: Path,
    extra_code: list[Path],
) -> dict[str, Any]:
    """The parts of a fingerprint, each under its own name, so that a difference can be said in words.

    Paths inside `results_dir` and the repository are written relative to them: moving either changes nothing.
    Raises InputError when an input does not exist.
    """
    digests = {}
    for path in inputs:
        if (digest := digest_path(path)) is None:
            raise InputError(f"{path} does not exist; run the stage that writes it first")
        digests[portable(str(path), results_dir)] = digest
    code = code_digests(command) | {portable(str(path), results_dir): digest_path(path) for path in extra_code}
    program, *arguments = command
    return {
        "command": [Path(program).name, *(portable(argument, results_dir) for argument in arguments)],
        "code": code,
        "inputs": digests,
        "parameters": parameters,
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What changed between two fingerprints, in words; empty when nothing did."""
    changed = []
    if before.get("command") != now["command"]:
        changed.append("the command changed")
    for part in ("inputs", "code", "parameters"):
        old, new = before.get(part, {}), now[part]
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        changed += [f"{name} changed" for name in names]
    return changed


def portable(text: str, results_dir: Path) -> str:
    """`text` without this machine's folders."""
    for folder, name in (
        (results_dir, "RESULTS"),
        (results_dir.resolve(), "RESULTS"),
        (REPOSITORY, "REPOSITORY"),
    ):
        if folder.is_absolute():
            text = text.replace(str(folder), name)
    return text


def digest_path(path: Path) -> str | None:
    """SHA-256 that stands for a file or folder; None when it does not exist.

    A dataset folder (one with a manifest.json, which holds the checksum of each shard) is told by its manifest, but
    for when and where it was made, and the names and sizes of its arrays, so that gigabytes are not read to find
    that nothing changed. Any other folder is told by the names and contents of its files.
    """
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    manifest = path / "manifest.json"
    if manifest.is_file():
        arrays = [file for file in files if file.suffix in {".npy", ".npz"}]
        listing: list[Any] = [_manifest_without_provenance(manifest)]
        listing += [[file.relative_to(path).as_posix(), file.stat().st_size] for file in arrays]
    else:
        listing = [[file.relative_to(path).as_posix(), sha256_file(file)] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _manifest_without_provenance(path: Path) -> Any:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in manifest.items() if key != "provenance"}
    except (ValueError, AttributeError):  # damaged: the stage that reads it says so
        return sha256_file(path)


def code_digests(command: list[str]) -> dict[str, str]:
    """Digest of each source file that `command` runs: its script and the project's modules that this imports.

    The script is the first argument that is a file ending in .py or .sh, or the module after `-m`. A command without
    one (a system program) has no code of ours.
    """
    script = _script_of(command)
    if script is None:
        return {}
    if script.suffix != ".py":
        return {_label(script): sha256_file(script)}
    roots = [script.parent, SOURCE_ROOT]
    found: dict[Path, str] = {}
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except SyntaxError as error:
            raise InputError(f"{path} line {error.lineno} is not valid Python ({error.msg}); mend it") from None
        waiting += _imported_files(tree, path, roots)
        found[path] = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()
    return {_label(path): digest for path, digest in sorted(found.items())}


def _script_of(command: list[str]) -> Path | None:
    for index, argument in enumerate(command):
        if argument == "-m" and index + 1 < len(command):
            files = _module_files(command[index + 1].split("."), [Path.cwd(), SOURCE_ROOT])
            return files[-1] if files else None
        path = Path(argument)
        if path.suffix in {".py", ".sh"} and path.is_file():
            return path.resolve()
    return None


def _label(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name


def _imported_files(tree: ast.Module, path: Path, roots: list[Path]) -> list[Path]:
    files = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                files += _module_files(alias.name.split("."), roots)
        elif isinstance(node, ast.ImportFrom):
            base = roots if node.level == 0 else [path.parents[node.level - 1]]
            module = node.module.split(".") if node.module else []
            files += _module_files(module, base)
            for alias in node.names:  # `from package import module` names a file too
                files += _module_files([*module, alias.name], base)
    return files


def _module_files(parts: list[str], roots: list[Path]) -> list[Path]:
    """The files that importing `a.b.c` runs, outermost first, as far as they lie under one of `roots`."""
    for root in roots:
        files = []
        for depth in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:depth])
            for candidate in (stem / "__init__.py", stem.with_name(stem.name + ".py")):
                if candidate.is_file():
                    files.append(candidate.resolve())
                    break
        if files:
            return files
    return []


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *others]:
                    node.body = others
    return tree

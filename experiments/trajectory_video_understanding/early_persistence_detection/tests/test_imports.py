"""Imports point one way, in no circle, and no script is another's library. Read from the files, so that it holds for
what runs rarely too."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = ROOT / "experiments" / "trajectory_video_understanding"
# who may import whom: a package and those before it
LAYERS = (
    ("run_directory",),
    ("study_pipeline", "video_tracks"),
    ("persistence_augmented_dataset",),
    ("early_persistence_detection",),
)
# within the last: what stands at its root, then models, then what is made with them
PARTS = ("metrics", "figures", "models", "explanation", "training", "evaluation", "inference")


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything but tests."""
    found = {}
    for names in LAYERS:
        for name in names:
            for path in (PACKAGES / name).rglob("*.py"):
                parts = path.relative_to(PACKAGES).with_suffix("").parts
                if "tests" not in parts:
                    found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it, also for type checkers only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in MODULES else str(node.module) for name in whole}
    return names & MODULES.keys()


IMPORTS = {name: imported(path) - {name} for name, path in MODULES.items()}


# what a session may load besides the standard library: the dependencies of the package without extras
RUNTIME = {"av", "lap", "numpy", "onnxruntime", "PIL"}


def loaded_at_once(path: Path) -> set[str]:
    """What importing a file imports, ours or not: not what its functions import, nor what is for type checkers only."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    parts = [name.split(".") for name in names]
    return {".".join(part[:count]) for part in parts for count in range(1, len(part) + 1)}  # a.b.c loads a and a.b


@pytest.mark.parametrize("door", ["session", "opening", "exported_stream", "detect", "detect_many"])
def test_what_decides_tracks_loads_no_more_than_the_package_depends_on(door):
    """Whoever only decides installs neither torch nor SciPy, OpenCV, trackers or plots."""
    reached: dict[str, str] = {}  # module -> who loads it
    waiting = [(f"early_persistence_detection.inference.{door}", "the test")]
    foreign = {}
    while waiting:
        module, by = waiting.pop()
        if module in reached:
            continue
        reached[module] = by
        for name in loaded_at_once(MODULES[module]):
            root = name.split(".")[0]
            if name in MODULES:
                waiting.append((name, module))
            elif root not in {package for names in LAYERS for package in names} | RUNTIME | sys.stdlib_module_names:
                foreign[root] = module
    assert len(reached) > 10 and "early_persistence_detection.models.calibration" in reached
    assert not foreign, foreign


def layer(module: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if module.split(".", maxsplit=1)[0] in names)


def part(module: str) -> int:
    return PARTS.index(module.split(".")[1])


def test_the_test_sees_the_code():
    assert len(MODULES) > 80 and sum(map(len, IMPORTS.values())) > 200
    assert "early_persistence_detection.inference.deciding" in IMPORTS["early_persistence_detection.inference.detect"]


def test_packages_import_only_what_is_below_them():
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if layer(other) > layer(module)
        or (layer(other) == layer(module) and other.split(".")[0] != module.split(".")[0])
    ]
    assert not wrong


def test_models_import_nothing_that_is_made_with_them():
    ours = "early_persistence_detection"
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if module.startswith(f"{ours}.") and other.startswith(f"{ours}.") and part(other) > part(module)
    ]
    assert not wrong


def test_a_session_needs_nothing_of_datasets_training_or_evaluation():
    reached, waiting = set(), ["early_persistence_detection.inference.session"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += IMPORTS[module]
    kinds = ("persistence_augmented_dataset", "study_pipeline", *(f"early_persistence_detection.{name}" for name in (
        "training", "evaluation", "figures")))  # fmt: skip
    assert not [module for module in reached if module.startswith(kinds)]


def test_there_is_no_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in sorted(IMPORTS[module]):
                # a package's own door is above what it opens to
                if not module.startswith(f"{other}."):
                    visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def is_script(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_no_script_is_imported_by_other_code():
    scripts = {name for name, path in MODULES.items() if is_script(path)}
    assert "early_persistence_detection.evaluation.evaluate_model" in scripts
    others = {path: imported(path) for path in (ROOT / "scripts").rglob("*.py") if "tests" not in path.parts}
    wrong = [f"{module} imports {other}" for module, names in IMPORTS.items() for other in names & scripts]
    wrong += [
        f"{path.relative_to(ROOT)} imports {other}" for path, names in others.items() for other in names & scripts
    ]
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").rglob("*.py")), ids=lambda path: path.name)
def test_scripts_of_the_repository_import_no_script_beside_them(path):
    beside = {other.stem for other in path.parent.glob("*.py") if is_script(other)}
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert not names & beside

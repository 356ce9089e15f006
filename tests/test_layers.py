"""The architecture, as a test: a file imports only lower layers, and nothing heavy is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reland_features"

# Later lines may import earlier ones; files of one line do not import each other.
LAYERS = """
errors columns process settings
usage config artifacts templates column_names tuning/__init__ __init__ curation/decisions curation/words
project retries interactions seed_tables skeleton weights crosses source_tables curation/curation
demo/__init__ demo/tastes demo/download databases source_columns tuning/adapters curation/__init__
demo/catalogue demo/draws mart_files source_times source_values drift
demo/simulator prepare sources
engines/base encoders/base encoders/transformer engines/vocabulary prompts/text index/base
engines/chat engines/constraint engines/packed engines/structured encoders/training encoders/fold_in prompts/catalogue
lineage
prompts/schema prompts/grounding prompts/condensing
prompts/parsing encoders/lightgcn encoders/sasrec engines/hf engines/openai engines/vllm engines/ray
engines/dummy index/exact index/milvus
prompts/template
encoders/__init__ engines/__init__ prompts/__init__ index/__init__ seeds ledger ledger_keys text_encoder init profiles
answers fused_rationales cold_start seed_curve seed_requests usage_counters pool demo_project publishing
rationale_file tuning/examples budget
rounds matching imported_texts tuning/tokens finished_pool live_pool quality/bootstrap feast_registry
rationales features seed_tokens feature_store tuning/lora tuning/measures review/base quality/samples
curation/editing
feast estimates item_texts ledger_view report/facts review/grounding review/content review/language review/duplicates
quality/__init__
report/ranking_view review/__init__ quality/comparison
report/figures quality/tables
report/__init__
stages/base explain
stages/reasoning stages/serving stages/online stages/refreshing
stages/__init__
evaluation dry_run seed_plan cold_start_evaluation check tuning/job curation/regenerating
report/collect
pipeline
console commands/__init__ commands/options
commands/rationales commands/seeds commands/ledger commands/tune commands/pool
cli
__main__
"""


def layer_of() -> dict[str, int]:
    return {name: depth for depth, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it, as paths without suffix."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("reland_features"):
            below = node.module.split(".")[1:]
            for alias in node.names:
                found.add("/".join([*below, alias.name]))
                found.add("/".join(below) or "__init__")
        elif isinstance(node, ast.Import):
            found |= {"/".join(a.name.split(".")[1:]) for a in node.names if a.name.startswith("reland_features.")}
    known = set()
    for name in found:
        if (PACKAGE / f"{name}.py").is_file():
            known.add(name)
        elif (PACKAGE / name / "__init__.py").is_file():
            known.add(f"{name}/__init__")
    return known


def python_files() -> list[str]:
    return sorted(
        str(p.relative_to(PACKAGE).with_suffix("")) for p in PACKAGE.rglob("*.py") if "_templates" not in p.parts
    )


def test_every_file_has_a_layer():
    assert sorted(set(python_files()) - set(layer_of())) == []


@pytest.mark.parametrize("name", python_files())
def test_a_file_imports_only_lower_layers(name):
    layers = layer_of()
    upward = [
        other
        for other in imports(PACKAGE / f"{name}.py") - {name, "__init__"}
        if layers[other] >= layers[name]
        # `from package.sub import module` names the package too; its own __init__ is not an import upwards.
        and not (other.endswith("/__init__") and name.startswith(other.removesuffix("__init__")))
    ]
    assert upward == []


def test_the_library_imports_neither_ranking_nor_the_feature_repository():
    for name in python_files():
        modules = {
            alias.name if isinstance(node, ast.Import) else node.module or ""
            for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not [m for m in modules if m.split(".")[0] in ("ranking", "feature_repo", "tests")], name


def test_the_feature_repository_imports_only_columns_and_factories():
    tree = ast.parse((ROOT / "feature_repo" / "feature_definitions.py").read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert {m for m in modules if m.startswith("reland_features")} <= {
        "reland_features.columns",
        "reland_features.feast",
    }


@pytest.mark.parametrize("statement", ["import reland_features", "import reland_features.cli"])
def test_importing_the_package_imports_nothing_heavy(statement):
    heavy = {
        "torch",
        "ray",
        "transformers",
        "peft",
        "sklearn",
        "pymilvus",
        "feast",
        "dbt",
        "duckdb",
        "pandas",
        "xgboost",
        "matplotlib",
    }
    code = f"import sys; {statement}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

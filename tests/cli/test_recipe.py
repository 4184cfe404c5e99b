"""Recipes: what the YAML means, what is refused, and that a dumped one replays."""

from __future__ import annotations

import json
import re

import onnx
import pytest
import yaml
from cli_helpers import contents, digest
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune.errors import UsageError
from onnxprune.planning import SelectOptions
from onnxprune.recipe import DataOptions, ProofOptions, Recipe


@pytest.fixture
def read(tmp_path):
    """Read a recipe from text."""

    def call(text: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return Recipe.load(path)

    return call


def test_a_dumped_recipe_replays_to_the_same_bytes(run, resnet, tmp_path):
    flags = ("--pattern", "channel", "--sparsity", "0.4", "--criterion", "lp:1.5", "--allocation",
             "global", "--align", "4", "--layer", "^/stage3.*conv1=0.7", "--seed", "5")  # fmt: skip
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    ran = run("prune", resnet, "-o", a, *flags, "--dump-recipe")
    assert ran.code == 0 and "parameters" in ran.err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(ran.out)
    assert run("prune", resnet, "-o", b, "--recipe", recipe).code == 0
    assert digest(a) == digest(b)
    # Dumping what was read gives what was read; without -o nothing else happens.
    before = contents(tmp_path)
    assert run("prune", resnet, "--recipe", recipe, "--dump-recipe").out == ran.out
    assert run("prune", resnet, *flags, "--dump-recipe").out == ran.out
    assert contents(tmp_path) == before
    result = onnxprune.prune(resnet, recipe=recipe)
    onnxprune.save(result.loaded, tmp_path / "c.onnx")
    assert digest(tmp_path / "c.onnx") == digest(a)


def test_every_default_is_spelt_out():
    data = yaml.safe_load(Recipe().dumps())
    assert data["select"] == SelectOptions().as_dict()
    assert data["passes"] == [{"apply-plan": {"mask_only": False}}]
    assert data["version"] == 1 and data["proof"] == {"run": True}


def test_flags_win_over_the_recipe(run, resnet, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("select: {sparsity: 0.25, align: 8}\n")
    report = json.loads(
        run("prune", resnet, "--recipe", recipe, "--sparsity", "0.5", "--dry-run", "--json").out
    )
    assert report["recipe"]["select"]["sparsity"] == 0.5
    assert report["recipe"]["select"]["align"] == 8
    report = json.loads(
        run(
            "prune", resnet, "--recipe", recipe, "--target", "params=0.5", "--dry-run", "--json"
        ).out
    )
    assert report["recipe"]["select"]["sparsity"] is None
    assert report["recipe"]["select"]["target"] == {"params": 0.5}


def test_yaml_says_what_people_read(read):
    recipe = read("select: {pattern: 2:4, sparsity: 5e-1, keep: no, layers: {1e3: 0.5, on: 1e-1}}")
    assert recipe.select.pattern == "2:4"  # YAML 1.1 would make 124 of it
    assert recipe.select.sparsity == 0.5 and recipe.select.keep == "no"
    assert recipe.select.layers == {"1000.0": 0.5, "on": 0.1}
    assert read("version: 1") == Recipe()


def test_passes_before_and_after(read):
    recipe = read(
        "passes: [infer-shapes, apply-plan: {mask_only: true}, "
        "{emit: {format: csr, min_saving: 0}}]"
    )
    assert [p.name for p in recipe.before] == ["infer-shapes"] and recipe.mask_only
    (emit,) = recipe.after
    assert emit.options()["format"] == "csr" and emit.options()["min_saving"] == 0.0
    assert Recipe.from_dict(yaml.safe_load(recipe.dumps())) == recipe


def test_passes_run(run, resnet, tmp_path):
    recipe, out = tmp_path / "r.yaml", tmp_path / "o.onnx"
    recipe.write_text(
        "select: {pattern: element, sparsity: 0.9}\npasses: [apply-plan, {emit: {format: coo}}]\n"
    )
    assert run("prune", resnet, "-o", out, "--recipe", recipe).code == 0
    graph = onnx.load(out).graph
    assert len(graph.sparse_initializer) > 10
    assert run("validate", resnet, out).code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("selct: {}", "Did you mean 'select'"),
        ("select: {sparsety: 0.5}", "Did you mean 'sparsity'"),
        ("select: {pattern: chanel, sparsity: 1.5}", "1.5"),
        ("select: {sparsity: half}", "'half'"),
        ("select: {sparsity: true}", "True"),
        ("select: {align: 1.5}", "1.5"),
        ("select: {layers: 3}", "mapping"),
        ("select: {target: {flops: 0.5}}", "flops"),
        ("select: 3", "mapping"),
        ("passes: [fold-constant, apply-plan]", "Did you mean 'fold-constants'"),
        ("passes: [{apply-plan: {mask: true}}]", "Did you mean 'mask_only'"),
        ("passes: [{apply-plan: {mask_only: 3}}]", "mask_only"),
        ("passes: [infer-shapes]", "'apply-plan' 0 times"),
        ("passes: [apply-plan, apply-plan]", "'apply-plan' 2 times"),
        ("passes: apply-plan", "list"),
        ("passes: [3]", "3"),
        ("proof: {limit: 1}", "'limit'"),
        ("data: {samples: 0}", "0"),
        ("data: {path: 3}", "3"),
        ("plan: [1]", "plan"),
        ("version: 2", "version 2"),
        ("select: {sparsity: 0.5, sparsity: 0.6}", "twice"),
        ("[1, 2]", "mapping"),
        ("", "mapping"),
        ("select: {", "not YAML"),
        ("select: !!python/object/apply:os.getcwd []", "not YAML"),
        ("&a [*a]", "mapping"),
        ("? [1, 2]\n: 3", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_what_cannot_be_meant(run, resnet, tmp_path, text, told):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text)
    ran = run("prune", resnet, "-o", tmp_path / "o.onnx", "--recipe", recipe)
    assert ran.code == 2 and told in ran.err, ran.err
    assert "bad.yaml" in ran.err and "Traceback" not in ran.err
    assert set(contents(tmp_path)) == {"bad.yaml"}


def test_unreadable_recipes(run, resnet, tmp_path):
    assert run("prune", resnet, "--recipe", tmp_path / "gone.yaml", "--dry-run").code == 2
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    assert run("prune", resnet, "--recipe", tmp_path / "binary.yaml", "--dry-run").code == 2


def test_python_takes_a_recipe_or_options(resnet):
    recipe = Recipe(SelectOptions(sparsity=0.5), proof=ProofOptions(False))
    assert onnxprune.prune(resnet, recipe=recipe).report["proof"]["passed"] is None
    with pytest.raises(UsageError):
        onnxprune.prune(resnet, sparsity=0.5, recipe=recipe)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
LEVEL = st.floats(0, 0.999)


@given(
    st.builds(
        Recipe,
        select=st.builds(
            SelectOptions,
            pattern=TEXT,
            sparsity=LEVEL | st.none(),
            criterion=TEXT,
            allocation=TEXT,
            align=st.integers(1, 64),
            only=st.none() | TEXT.map(re.escape),
            keep=st.none()
            | st.sampled_from(["2:4", "null", "1e5", "yes", "0x10", "010", ".5", "~"]),
            layers=st.dictionaries(TEXT, LEVEL, max_size=3),
            first_layer=st.sampled_from(["prune", "keep"]),
            seed=st.integers(-5, 2**40),
        ),
        plan=st.none() | TEXT,
        data=st.builds(DataOptions, path=st.none() | TEXT, samples=st.none() | st.integers(1, 99)),
        proof=st.builds(ProofOptions, run=st.booleans()),
    )
)
def test_what_is_dumped_is_what_is_read(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("recipe") / "r.yaml"
    path.write_text(recipe.dumps(), encoding="utf-8")
    assert Recipe.load(path) == recipe
    # Other YAML readers understand it alike.
    assert Recipe.from_dict(yaml.safe_load(recipe.dumps())) == recipe

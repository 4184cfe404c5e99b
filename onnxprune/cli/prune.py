"""``onnxprune prune``: remove weights or whole channels, prove the result, write it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune import __version__
from onnxprune.cli._console import note, progress_bar, show
from onnxprune.cli._picture import PICTURE, check_picture, picture
from onnxprune.errors import UsageError

if TYPE_CHECKING:
    from onnxprune.cli._outputs import Outputs
    from onnxprune.recipe import Recipe

POLICY = click.Choice(["prune", "keep"])
SELECT = (
    "pattern",
    "sparsity",
    "target",
    "criterion",
    "allocation",
    "align",
    "only",
    "keep",
    "layers",
    "first_layer",
    "last_layer",
    "seed",
    "shrink_states",
    "structure",
    "permute",
)


def _level(text: str, option: str, example: str) -> tuple[str, float]:
    """Read ``NAME=NUMBER``; the name may hold ``=`` itself."""
    name, equals, number = text.rpartition("=")
    try:
        if not (equals and name):
            raise ValueError
        return name, float(number)
    except ValueError:
        raise click.BadParameter(f"{text!r}: write it like {example}", param_hint=option) from None


def _target(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    return (
        None
        if text is None
        else dict([_level(text, "--target", "params=0.5, macs=0.5 or bytes=0.5")])
    )


def _layers(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> Any:
    return dict(_level(t, "--layer", "'conv1=0.7' or '^layer3=0.7'") for t in texts)


@click.command("prune")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.")
@click.option(
    "--pattern",
    metavar="PATTERN",
    help="What goes together: element, 2:4, N:M, "
    "block:RxC, vector, kernel, channel ('list patterns').  "
    "[default: channel]",
)
@click.option("--sparsity", type=float, help="Fraction to remove, of the weights or channels.")
@click.option(
    "--target",
    callback=_target,
    metavar="params=F|macs=F|bytes=F",
    help="Instead of a sparsity: fraction of the model to keep.",
)
@click.option(
    "--structure",
    metavar="KINDS",
    help="For channel: heads, head_dim, ffn, channels, hidden (through the norms: approximate), "
    "a list of these, or auto: all that is exact.  [default: auto]",
)
@click.option("--criterion", metavar="NAME", help="Score ('list criteria').  [default: auto]")
@click.option(
    "--allocation",
    metavar="NAME",
    help="How the sparsity is divided over layers ('list allocations').  [default: auto]",
)
@click.option("--align", type=int, metavar="N", help="Kept channel counts are multiples of N.")
@click.option("--only", metavar="RE", help="Prune only layers whose names match.")
@click.option("--keep", metavar="RE", help="Leave layers whose names match as they are.")
@click.option(
    "--layer",
    "layers",
    callback=_layers,
    multiple=True,
    metavar="RE=S",
    help="Another sparsity for these layers; may be given several times.",
)
@click.option("--first-layer", type=POLICY, help="What happens to it.  [default: prune]")
@click.option("--last-layer", type=POLICY, help="What happens to it.  [default: prune]")
@click.option("--seed", type=int, help="For random scores.  [default: 0]")
@click.option(
    "--shrink-states",
    metavar="RE",
    help="Let inputs whose names match lose units too where an output gives them back: the state "
    "of a streaming model. Changes the model's interface.",
)
@click.option(
    "--permute",
    type=click.Choice(["auto", "on", "none"]),
    help="For N:M, blocks and vectors: reorder coupled channels where less is lost that way; "
    "auto: with --data.  "
    "[default: auto]",
)
@click.option(
    "--mask-only", is_flag=True, help="Write the dense model with zeros instead of a smaller one."
)
@click.option(
    "--format",
    "format_",
    metavar="auto|NAME",
    help="Also pack the weights, as 'convert --format' does: auto takes the smallest form of each; "
    "or one of 'list formats'.",
)
@click.option("--plan", type=click.Path(path_type=Path), help="Write what was kept, as JSON.")
@click.option("--from-plan", type=click.Path(), help="Replay such a file instead of selecting.")
@click.option(
    "--recipe",
    "recipe_file",
    type=click.Path(),
    help="YAML with all of this; options given here win over it.",
)
@click.option(
    "--dump-recipe", is_flag=True, help="Print the full recipe; without -o nothing else is done."
)
@click.option(
    "--data",
    metavar="PATH",
    help="Unlabelled samples, for the proof and --recover: .npz, a folder of them, a folder of "
    "pictures (DIR::resize=256,crop=224,mean=..,std=..), file.py:function, or 'synthetic'.  "
    "[default: random ones, for the proof only]",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use at most N of them.  [default: 64 for the proof; to recover 1024, of a large network "
    "fewer, down to 128]",
)
@click.option(
    "--recover",
    metavar="auto|none|LIST",
    help="auto: with --data, search masks and solve kept weights anew so that outputs stay what "
    "they were; none: kept weights stay as they are; or the steps to try, with commas between: "
    "reconstruct (solve layer by layer), allocate (divide weights by measured damage first), "
    "permute (reorder channels for N:M and blocks), train (block-wise) for masks; select (units "
    "and widths by samples), reconstruct, statistics (of normalisations), train for channels. Each "
    "is kept only if it agrees better on held-out samples.  [default: auto]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep what --recover has worked out there, by model and samples; a run that was "
    "interrupted goes on from it.",
)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.json|.html", help="Write a report."
)
@click.option("--structure-report", "drawing", **PICTURE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-proof", is_flag=True, help="Do not compare with the dense model.")
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Prune MODEL and write the result, once it is proved to compute what it should.

    \b
    onnxprune prune net.onnx -o small.onnx --sparsity 0.5
    onnxprune prune net.onnx -o sparse.onnx --pattern 2:4
    onnxprune prune net.onnx -o small.onnx --target macs=0.5 --allocation global --align 8
    """
    report_file = options["report"]
    if report_file is not None and report_file.suffix.lower() not in (".json", ".html"):
        raise UsageError(f"--report {report_file}: the name must end in .json or .html")
    check_picture(options["drawing"])
    recipe = build_recipe(options)
    if options["dump_recipe"]:
        if options["output"] is None:
            click.echo(_recipe_text(recipe, options), nl=options["as_json"])
            return
        if not options["as_json"]:
            click.echo(_recipe_text(recipe, options), nl=False)
    if options["output"] is None and not options["dry_run"]:
        raise click.MissingParameter(ctx=context, param_type="option", param_hint="'-o'")
    _run(recipe, options)


def _outputs(options: dict[str, Any]) -> Outputs:
    from onnxprune.cli._outputs import Outputs

    asked = [options[k] for k in ("plan", "report", "drawing") if options[k] is not None]
    texts: dict[Path, Any] = dict.fromkeys(asked, str)
    if len(texts) < len(asked):
        twice = next(path for path in asked if asked.count(path) > 1)
        raise UsageError(f"{twice} is asked for as two different outputs; give two names")
    files = [options[k] for k in ("model", "from_plan", "recipe_file", "data")]
    read = (Path(f).absolute() for f in files if f is not None)
    return Outputs(options["output"], texts, tuple(read))


def build_recipe(options: dict[str, Any]) -> Recipe:
    """Return the recipe that the options mean: those of ``--recipe``, with the flags on top.

    Raises:
        UsageError: they cannot be meant.
    """
    from onnxprune.recipe import Recipe, override

    base = options["recipe_file"]
    recipe = Recipe() if base is None else Recipe.load(base)
    given = {k: options[k] for k in SELECT if options[k] not in (None, {})}
    recipe = dataclasses.replace(
        recipe,
        select=override(recipe.select, given),
        plan=options["from_plan"] or recipe.plan,
        data=dataclasses.replace(
            recipe.data,
            **{k: v for k, v in (("path", options["data"]), ("samples", options["samples"])) if v},
        ),
        recover=options["recover"] or recipe.recover,
        proof=dataclasses.replace(recipe.proof, run=recipe.proof.run and not options["no_proof"]),
    )
    if options["samples"] and not recipe.data.path:
        raise UsageError("--samples says how many of the samples in --data to use; give --data")
    if options["from_plan"] and (given.keys() - {"seed"}):
        names = ", ".join(sorted(given))
        raise UsageError(f"--from-plan replays a plan and selects nothing; leave out: {names}")
    if options["mask_only"]:
        recipe = recipe.with_mask_only(True)
    return recipe if options["format_"] is None else recipe.with_format(options["format_"])


def _recipe_text(recipe: Recipe, options: dict[str, Any]) -> str:
    return json.dumps(recipe.as_dict()) if options["as_json"] else recipe.dumps()


def _run(recipe: Recipe, options: dict[str, Any]) -> None:
    outputs = _outputs(options)
    outputs.check()
    from onnxprune import api
    from onnxprune.report.jsonable import dumps
    from onnxprune.report.prune_html import page
    from onnxprune.report.prune_text import tables

    with progress_bar() as progress:
        result = api.prune(
            options["model"], recipe=recipe, cache=options["cache"], progress=progress
        )
    files = result.loaded.origin.files
    outputs.inputs += files  # external data, known only now
    outputs.check()
    report = {
        "onnxprune": __version__,
        "model": str(options["model"]),
        "output": str(options["output"]) if options["output"] else None,
        "kind": result.plan.kind,
        **result.report,
        "recipe": recipe.as_dict(),
    }
    report["bytes"]["before"] = sum(file.stat().st_size for file in files)

    def note_size(size: int) -> None:
        report["bytes"]["after"] = size

    def full() -> str:
        return dumps({**report, "plan": result.plan.as_dict()})

    if options["plan"] is not None:
        outputs.texts[options["plan"]] = result.plan.dumps
    if options["report"] is not None:
        html = options["report"].suffix.lower() == ".html"
        outputs.texts[options["report"]] = (
            (lambda: page(report, result.plan, recipe.dumps())) if html else (lambda: full() + "\n")
        )
    drawing = options["drawing"]
    if drawing is not None:
        kept = {g["name"]: g["kept"] for g in report["groups"] if "units" in g}
        title = f"{options['model']}, pruned: {report['pattern']}"
        structure = "auto,hidden" if result.plan.through_norms else "auto"
        outputs.texts[drawing] = lambda: picture(
            drawing, api.inspect(options["model"], structure=structure), kept, title
        )
    if options["dry_run"]:
        told = ", ".join(map(str, outputs.paths))
        note("dry run, nothing is written" + (f"; otherwise: {told}" if told else ""))
    else:
        outputs.write(result.loaded, note_size)
    if options["as_json"]:
        click.echo(full())
    else:
        show(tables(report), err=options["dump_recipe"])

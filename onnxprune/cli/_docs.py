"""``docs/cli.md``, made from the commands themselves.

    python -m onnxprune.cli._docs > docs/cli.md

A test compares the two.
"""

from __future__ import annotations

import inspect
import sys

import click

from onnxprune.cli import main

HEAD = """\
# The command line

This page is made from the program by `python -m onnxprune.cli._docs > docs/cli.md`; do not edit it.

Results go to stdout, progress and notes to stderr. On a terminal tables are drawn and progress is
shown; in a pipe everything is plain aligned text (`NO_COLOR` is respected on terminals too).
`--json` prints exactly one JSON object, whose keys are described in [report.md](report.md). Errors
are one line on stderr that starts with `error:`; `ONNXPRUNE_DEBUG=1` or
`onnxprune --debug COMMAND ...` adds where it happened.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: a file cannot be read or written, data does not fit, the model is broken |
| 2 | usage: an option, name or number that cannot be meant |
| 3 | the result did not pass its proof, or a threshold was missed; nothing was written |
| 130 | interrupted |

Models are never changed in place, and what is written appears whole or not at all: the model, its
external data, the plan and the report together.
"""

RECIPES = """\
## Recipes

A recipe is everything that a prune depends on besides the model, as YAML. Options on the command
line are sugar that builds one; `--dump-recipe` prints it in full, and `--recipe` replays it to the
same bytes. Options given beside `--recipe` win over what it says. This is the recipe of
`onnxprune prune net.onnx --sparsity 0.5`, with every default:

```yaml
{recipe}```

* `select`: how much to take, from where, by which score; the keys are those of the options above
  (`--layer` is `layers`). A key that is left out keeps its default.
* `plan`: path of a plan to replay; `select` is then only a record.
* `passes`: names, or `name: {{option: value}}`, of `onnxprune list passes`. `apply-plan` comes
  once: passes before it see the dense model, passes after it the pruned one. `--mask-only` is its
  option.
* `data`: samples for the proof and for `recover`; `samples: null` is 64 for the proof and up to
  1024 for recovery. `recover` is `auto`, `none` or steps. `proof.run: false` is `--no-proof`.

Unknown keys, passes and options are errors that name the nearest one there is.

## Samples

`--data` takes

* a `.npz` file with arrays named like the model's inputs, samples on the first axis;
* a folder of such files, or of one `.npy` per input;
* `file.py:function`, a function that yields feeds (dicts from input names to arrays) or samples.
"""


def page() -> str:
    """Return the page as Markdown."""
    from onnxprune.planning import SelectOptions
    from onnxprune.recipe import Recipe

    context = main.make_context("onnxprune", [], resilient_parsing=True)
    parts = [HEAD]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        parts.append(_command(command, click.Context(command, context, name)))
    recipe = Recipe(SelectOptions(sparsity=0.5)).dumps()
    return "\n".join([*parts, RECIPES.format(recipe=recipe)])


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## onnxprune {command.name}", "", f"    onnxprune {command.name} {usage}", ""]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):  # click's mark for lines to leave alone
            lines += ["    " + line.strip() for line in paragraph.splitlines()[1:]]
        else:
            lines.append(" ".join(paragraph.split()))
        lines.append("")
    lines += ["| option | |", "|---|---|"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in parameter.opts:
            names, told = (text.replace("|", "\\|") for text in record)
            lines.append(f"| `{names}` | {' '.join(told.split())} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())

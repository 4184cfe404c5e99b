"""What a person sees: terminals, pipes, pages."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import onnx
import pytest
from cli_helpers import save_convs

from onnxprune.cli import main
from onnxprune.report.jsonable import dumps
from onnxprune.report.tables import Table, percent, shape_text, shorten, size_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Run a command as if on a terminal; return what it showed on stdout and stderr."""

    def call(*args: object, **environment: str) -> tuple[str, str]:
        screens = Terminal(), Terminal()
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            for name, value in {"TERM": "xterm-256color", "COLUMNS": "140", **environment}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdout", screens[0])
            patch.setattr(sys, "stderr", screens[1])
            with pytest.raises(SystemExit) as ended:
                main([str(a) for a in args], prog_name="onnxprune")
        assert not ended.value.code
        return screens[0].getvalue(), screens[1].getvalue()

    return call


def test_a_terminal_gets_tables_and_progress(terminal, resnet, tmp_path):
    args = ("prune", resnet, "-o", tmp_path / "o.onnx", "--sparsity", "0.5")
    out, err = terminal(*args)
    assert "\x1b[1m" in out and "─" in out and "44,738" in out and "proved" in out
    assert "rewrite" in err and "\x1b[38;5" in err  # a coloured bar
    out, err = terminal(*args, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", out + err) and "44,738" in out


def test_json_on_a_terminal_is_json(terminal, resnet):
    out, _ = terminal("inspect", resnet, "--json")
    assert out.startswith("{\n") and "\x1b" not in out


class Balanced(HTMLParser):
    """Raises where tags do not match; keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_names_cannot_break_the_page(run, tmp_path):
    model = onnx.load(save_convs(tmp_path / "net.onnx", (3, 8, 8, 4)))
    evil = '<script>alert("&")</script> $title'
    model.graph.node[0].name = evil
    onnx.save(model, tmp_path / "evil.onnx")
    page = tmp_path / "r.html"
    args = ("-o", tmp_path / "o.onnx", "--sparsity", "0.5", "--report", page)
    assert run("prune", tmp_path / "evil.onnx", *args).code == 0
    reader = Balanced()
    reader.feed(page.read_text())
    assert reader.open == [] and evil in "".join(reader.text)
    assert "<script" not in page.read_text()


def test_tables_line_up():
    table = Table(["name", ">n"], title="things")
    table.add("a", 1234567)
    table.add("longer", None)
    assert table.plain() == "things\nname            n\na       1,234,567\nlonger"


def test_words_and_numbers():
    assert shape_text([64, 3, 3, 3]) == "64x3x3x3" and shape_text([]) == "scalar"
    assert shape_text(["n", 3, None]) == "[n, 3, ?]" and shape_text(None) == "?"
    assert percent(0.254) == "25.4%" and percent(None) == ""
    assert size_text(512) == "512 B" and size_text(2**20 * 1.5) == "1.5 MiB"
    assert size_text(3 * 2**30) == "3.00 GiB"
    assert (
        shorten(["a", "b", "c"], 2) == "a, b, c" and shorten(list("abcd"), 2) == "a, b and 2 more"
    )
    assert dumps({"a": float("inf"), "b": [float("nan"), True]}) == (
        '{\n  "a": null,\n  "b": [\n    null,\n    true\n  ]\n}'
    )


def test_it_is_a_module_too(environment, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "onnxprune", "--version"],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.startswith("onnxprune, version ")


def test_help_is_fast_because_it_imports_little(environment, tmp_path):
    code = (
        "import sys\nfrom onnxprune.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'onnxruntime', 'scipy', 'onnx', 'onnx_ir', 'onnx_graphsurgeon', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    for args in (["--help"], ["prune", "--help"], ["validate", "--help"], ["bench", "--help"]):
        ran = subprocess.run(
            [sys.executable, "-c", code, *args],
            env=environment, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert ran.stdout.splitlines()[-1] == "[]", (args, ran.stdout, ran.stderr)

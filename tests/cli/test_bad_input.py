"""Whatever is wrong with the input or the machine: one clear line, an exit code, no file."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from cli_helpers import contents, digest, save_convs

from onnxprune.io import atomic
from onnxprune.passes import shrink


@pytest.fixture
def fails(run: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """Run prune, expect an exit code and that no file came, went or changed; return the message."""

    def call(code: int, model: Path, *args: object, output: object = None) -> str:
        before = contents(tmp_path)
        out = output if output is not None else tmp_path / "out.onnx"
        ran = run("prune", model, "-o", out, *args)
        assert ran.code == code, ran.err
        assert contents(tmp_path) == before
        assert ran.out == ""
        assert "Traceback" not in ran.err and "should not happen" not in ran.err
        lines = ran.err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1]

    return call


HALF = ("--sparsity", "0.5")


@pytest.mark.parametrize("cut", [0, 1, 100, 300_000, -1])
def test_truncated(fails, resnet, tmp_path, cut):
    path = tmp_path / "cut.onnx"
    path.write_bytes(resnet.read_bytes()[:cut])
    assert str(path) in fails(1, path, *HALF)


def test_corrupt(fails, tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert str(path) in fails(1, path, *HALF)


def test_not_there(fails, tmp_path):
    assert "does not exist" in fails(1, tmp_path / "nowhere.onnx", *HALF)
    assert str(tmp_path) in fails(1, tmp_path, *HALF)


def test_missing_external_data(fails, tmp_path):
    path = save_convs(tmp_path / "net.onnx", external=True)
    (tmp_path / "net.onnx.weights").unlink()
    assert "net.onnx.weights" in fails(1, path, *HALF)


def test_short_external_data(fails, tmp_path):
    path = save_convs(tmp_path / "net.onnx", external=True)
    side = tmp_path / "net.onnx.weights"
    side.write_bytes(side.read_bytes()[:100])
    assert "net.onnx.weights" in fails(1, path, *HALF)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(fails, tmp_path, bad):
    path = save_convs(tmp_path / "net.onnx", bad=bad)
    assert "'w0'" in fails(1, path, *HALF)
    assert "'w0'" in fails(1, path, "--pattern", "element", *HALF)


@pytest.mark.parametrize("sparsity", ["1.5", "1", "-0.1", "nan", "inf", "half"])
def test_sparsity_out_of_range(fails, resnet, sparsity):
    assert "sparsity" in fails(2, resnet, f"--sparsity={sparsity}")


def test_pattern_that_does_not_fit(fails, tmp_path):
    path = save_convs(tmp_path / "five.onnx", (5, 5, 5))
    message = fails(2, path, "--pattern", "2:4")
    assert "5 input channels are not a multiple of 4" in message and "2:4" in message


def test_pattern_with_another_sparsity(fails, resnet):
    assert "2:4" in fails(2, resnet, "--pattern", "2:4", "--sparsity", "0.9")


def test_missing_folder(fails, resnet, tmp_path):
    message = fails(1, resnet, *HALF, output=tmp_path / "no" / "such" / "out.onnx")
    assert "does not exist" in message and "no/such" in message
    for option in ("--plan", "--report"):
        path = tmp_path / "no" / "such.json"
        assert str(path) in fails(1, resnet, *HALF, option, path)


def test_output_that_is_a_folder(fails, resnet, tmp_path):
    assert "folder" in fails(1, resnet, *HALF, output=tmp_path)


def test_output_over_the_input(fails, tmp_path):
    path = save_convs(tmp_path / "net.onnx")
    assert "being read" in fails(1, path, *HALF, output=path)
    (tmp_path / "link.onnx").symlink_to(path)
    assert "being read" in fails(1, path, *HALF, output=tmp_path / "link.onnx")
    assert "being read" in fails(1, path, *HALF, "--plan", path)


def test_two_outputs_of_one_name(fails, resnet, tmp_path):
    same = tmp_path / "same.json"
    assert "two" in fails(2, resnet, *HALF, "--plan", same, "--report", same)
    assert "two" in fails(2, resnet, *HALF, "--plan", same, output=same)
    sidecar = tmp_path / "out.onnx.data"
    assert "two" in fails(2, resnet, *HALF, "--plan", sidecar)


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (("--pattern", "chanel"), "'channel'"),
        (("--pattern", "blok:4x1"), "'block:4x1'"),
        (("--criterion", "l11"), "'l1'"),
        (("--allocation", "unifrom"), "'uniform'"),
        (("--layer", "/conv/Conf=0.5"), "'/conv/Conv'"),
        (("--sparcity", "0.5"), "'--sparsity'"),
    ],
)
def test_unknown_names_come_with_near_ones(fails, resnet, args, near):
    level = () if "--layer" in args else HALF
    assert near in fails(2, resnet, *args, *level)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "how much"),
        (("--target", "flops=0.5"), "flops"),
        (("--target", "params"), "params=0.5"),
        (("--target", "params=2"), "params=2"),
        ((*HALF, "--target", "params=0.5"), "not both"),
        (("--layer", "conv"), "'conv'"),
        ((*HALF, "--only", "("), "regular expression"),
        ((*HALF, "--align", "0"), "align"),
        ((*HALF, "--first-layer", "remove"), "remove"),
        ((*HALF, "--report", "report.txt"), ".html"),
        ((*HALF, "--samples", "0"), "samples"),
        ((*HALF, "--from-plan", "plan.json"), "plan"),
    ],
)
def test_usage(fails, resnet, args, told):
    assert told in fails(2, resnet, *args)


def test_output_is_required(run, resnet):
    ran = run("prune", resnet, *HALF)
    assert ran.code == 2 and "-o" in ran.err


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{", '{"onnxprune_plan": 99}'])
def test_damaged_plan(fails, resnet, tmp_path, text):
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    assert "plan" in fails(1, resnet, "--from-plan", plan)


def test_plan_of_another_model(fails, run, resnet, tmp_path):
    model = save_convs(tmp_path / "net.onnx")
    plan = tmp_path / "plan.json"
    assert run("prune", resnet, "-o", tmp_path / "a.onnx", *HALF, "--plan", plan).code == 0
    assert "tensor" in fails(2, model, "--from-plan", plan)


def test_failed_proof(fails, resnet, monkeypatch):
    """A rewrite that does not keep the numbers as they are is caught."""
    real = shrink._take
    monkeypatch.setattr(shrink, "_take", lambda *args: 1.05 * real(*args))
    assert "nothing was written" in fails(3, resnet, *HALF)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, error: BaseException, files: int) -> None:
    """Let the writing of the n-th file break in the middle."""
    real = atomic._write
    count = [0]

    def write(path: Path, spare: Path, writer: Callable[[BinaryIO], None]) -> None:
        count[0] += 1

        def half(file: BinaryIO) -> None:
            writer(file)
            file.flush()
            file.truncate(10)
            raise error

        real(path, spare, half if count[0] > files else writer)

    monkeypatch.setattr(atomic, "_write", write)


@pytest.mark.parametrize("files", [0, 1, 2])
@pytest.mark.parametrize("old", [False, True])
def test_writing_breaks(run, tmp_path, monkeypatch, files, old):
    """Whichever of sidecar, model, plan is being written: none is left, older ones are back."""
    model = save_convs(tmp_path / "net.onnx", (16, 64, 64, 8), external=True)
    folder = tmp_path / "out"
    folder.mkdir()
    args = ("prune", model, "-o", folder / "o.onnx", "--plan", folder / "p.json")
    if old:
        assert run(*args, "--sparsity", "0.25").code == 0
    before = contents(tmp_path)
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left"), 1)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, error, files)
            ran = run(*args, *HALF)
        assert ran.code == code
        assert "Traceback" not in ran.err and "should not happen" not in ran.err
        assert contents(tmp_path) == before
    assert run(*args, *HALF).code == 0
    assert contents(tmp_path) != before


def test_full_disk(process, resnet, tmp_path):
    """A real limit on file sizes, as the operating system enforces it."""
    before = digest(resnet)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    ran = process("prune", resnet, "-o", tmp_path / "out.onnx", *HALF, preexec_fn=limit)
    assert ran.code == 1 and ran.err.startswith("error: cannot write")
    assert "Traceback" not in ran.err and ran.err.count("\n") == 1
    assert contents(tmp_path) == {} and digest(resnet) == before


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(start, resnet, tmp_path, sent):
    """Ctrl-C while the proof waits for its data."""
    ready = tmp_path / "ready"
    loader = tmp_path / "loader.py"
    loader.write_text(
        "import pathlib, time\n"
        "def feeds():\n"
        f"    pathlib.Path({str(ready)!r}).touch()\n"
        "    for _ in range(600):\n"  # a signal just before a sleep is seen after it
        "        time.sleep(0.1)\n"
        "    yield {}\n"
    )
    running = start("prune", resnet, "-o", "out.onnx", *HALF, "--data", f"{loader}:feeds")
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.02)
    running.send_signal(sent)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert out == "" and err.strip() == "interrupted"
    assert contents(tmp_path / "cwd") == {}


def test_reader_that_goes_away(start, resnet):
    running = start("inspect", resnet, "--json")
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    running.wait(60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_stdout_full(process, resnet):
    with Path("/dev/full").open("w") as full:
        ran = process("inspect", resnet, stdout=full)
    assert ran.code == 1 and "Traceback" not in ran.err and ran.err.startswith("error: ")


def test_no_traceback_in_a_process_of_its_own(process, tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x08\x07 not a model")
    ran = process("prune", path, "-o", "out.onnx", *HALF)
    assert ran.code == 1 and ran.out == "" and ran.err.count("\n") == 1
    assert ran.err.startswith("error: ") and str(path) in ran.err


def test_what_nobody_expected(run, resnet, monkeypatch):
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("onnxprune.api.inspect", broken)
    ran = run("inspect", resnet)
    assert ran.code == 1 and "RuntimeError: boom" in ran.err and "report" in ran.err
    assert "Traceback" not in ran.err
    monkeypatch.setenv("ONNXPRUNE_DEBUG", "1")
    assert "Traceback" in run("inspect", resnet).err

"""Other tools to compare with: installed apart, run as processes, timed and judged the same way.

Each peer lives in an environment of its own under ``.cache/peers``, made on first use. Where it
cannot be had (no network, no wheel for this machine) the caller gets None and a reason to print.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "peers"

#: What each peer is made of. onnx and onnxruntime are those of this environment, so that a
#: difference is the peer's.
REQUIREMENTS = {
    "onnxsim": ["onnxsim==0.8.1", f"onnx=={onnx.__version__}", f"onnxruntime=={ort.__version__}"],
    "polygraphy": ["polygraphy==0.53.6", "onnx_graphsurgeon", f"onnx=={onnx.__version__}"],
    "openvino": ["openvino", "numpy"],
    "deepsparse": ["deepsparse==1.8.0"],
    "matplotlib": ["matplotlib"],  # no peer, but wanted by benchmarks only
}

#: Peers that do not run on every Python: the versions they take, best first.
PYTHONS = {"deepsparse": ["3.10", "3.9", "3.8"]}

#: Tried in turn for symbolic dims until the original runs.
_SIZES = (2, 64, 512)

#: What onnxruntime calls the element types of inputs.
_ONNX_NAMES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "FLOAT16",
    "tensor(double)": "DOUBLE",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
}

#: Starts argv[2:] and writes [exit code, seconds, ru_maxrss, CPU seconds] to argv[1].
LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
cpu = usage.ru_utime + usage.ru_stime
record = [os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss, cpu]
with open(sys.argv[1], "w") as file:
    json.dump(record, file)
"""

#: onnxsim's pruning, called as its documentation does; argv: input, output.
ONNXSIM = """
import sys, onnx
from onnxsim import pruning
model = onnx.load(sys.argv[1])
onnx.save(pruning.apply_structured_pruning(model, 0.5), sys.argv[2])
"""


@dataclass(frozen=True)
class Run:
    """One process that has ended.

    Attributes:
        code: exit code, negative for a signal, None when it ran past its limit.
        seconds: wall time from start to end, interpreter start included.
        peak_mb: peak resident memory in 10^6 bytes, of the process or its biggest child; 0 if it
            ran past its limit.
        output: stdout and stderr together.
        cpu: seconds of processor time, user and system, all threads; says more than ``seconds`` on
            a machine that does other things as well.
    """

    code: int | None
    seconds: float
    peak_mb: float
    output: str
    cpu: float = 0.0

    def json(self) -> dict[str, Any]:
        """Return the last line of the output that is a JSON object; empty when there is none."""
        start = self.output.rfind("\n{")
        text = self.output[start + 1 :] if start >= 0 else self.output
        try:
            found, _ = json.JSONDecoder().raw_decode(text.lstrip())
        except json.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}


def onnxprune() -> list[str]:
    """Return how our command line is started: the script beside this Python, else the module."""
    script = Path(sys.executable).with_name("onnxprune")
    return [str(script)] if script.exists() else [sys.executable, "-m", "onnxprune"]


def environment(name: str) -> tuple[Path | None, str]:
    """Return the ``bin`` folder of peer ``name`` and "", or None and why it cannot be had."""
    folder = CACHE / name
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    stamp = folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if stamp.exists() and stamp.read_text() == wanted:
        return binaries, ""
    python = interpreter(name)
    if python is None:
        return None, f"{name}: it needs Python {' or '.join(PYTHONS[name])}, which is not here"
    made = subprocess.run([python, "-m", "venv", "--clear", str(folder)])
    if made.returncode != 0:
        return None, f"{name}: no environment could be made"
    install = [str(binaries / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]]
    if subprocess.run(install, stdout=subprocess.DEVNULL).returncode != 0:
        return None, f"{name}: pip could not install {', '.join(REQUIREMENTS[name])}"
    stamp.write_text(wanted)
    return binaries, ""


def interpreter(name: str) -> str | None:
    """Return the Python to make the environment of peer ``name`` with, None where there is none.

    This one, unless the peer needs another: that is looked for on PATH and among pyenv's.
    """
    if name not in PYTHONS:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in PYTHONS[name]:
        found = shutil.which(f"python{version}")
        for candidate in [found, *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]:
            if candidate and says_version(candidate, version):
                return candidate
    return None


def says_version(python: str, version: str) -> bool:
    """Whether this is a working Python of ``version`` (pyenv's shims may not be)."""
    program = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version


def measure(command: list[str], limit: float = 900) -> Run:
    """Run ``command`` to its end, or for ``limit`` seconds, and return what it took.

    A small process in between starts it, because a child's peak memory begins at what the process
    had that started it.
    """
    with tempfile.TemporaryDirectory() as folder:
        record, log = Path(folder) / "record", Path(folder) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", LAUNCHER, str(record), *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return Run(None, limit, 0.0, log.read_text())
        if not record.exists():
            raise RuntimeError(f"{command[0]} cannot be started: {log.read_text()}")
        code, seconds, peak, cpu = json.loads(record.read_text())
        kibibytes = peak / 1024 if sys.platform == "darwin" else peak
        return Run(code, seconds, kibibytes * 1.024e-3, log.read_text(), cpu)


def median(runs: list[Run]) -> tuple[float, float]:
    """Return the medians of seconds and of peak memory."""
    return (
        statistics.median(run.seconds for run in runs),
        statistics.median(run.peak_mb for run in runs),
    )


def parameters(model: onnx.ModelProto) -> int:
    """Return how many floating-point numbers the initializers and Constant nodes hold."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type in floats)


def validity(before: Path, after: Path) -> str:
    """Return "valid", or what is wrong with ``after`` as a replacement of ``before``.

    It must pass the checker with shape inference wherever ``before`` does, load and run in
    onnxruntime, and give finite outputs of the same shapes.
    """
    if passes_checker(before) is None and (why := passes_checker(after)) is not None:
        return f"checker: {why}"
    why = ""
    for size in _SIZES:
        try:
            dense = run_model(before, size)
        except Exception as error:  # onnxruntime raises several unrelated classes
            why = why or first_line(error)
            continue
        break
    else:
        return f"the original does not run: {why}"
    try:
        pruned = run_model(after, size)
    except Exception as error:
        return f"onnxruntime: {first_line(error)}"
    if [d.shape for d in dense] != [p.shape for p in pruned]:
        return "other output shapes"
    if not all(np.isfinite(p).all() for p in pruned):
        return "outputs are not finite"
    return "valid"


def passes_checker(path: Path) -> str | None:
    """Return None, or the first line of what ``check_model(full_check=True)`` says."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """Return the first line of a message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:110]


def run_model(path: Path, size: int) -> list[npt.NDArray[Any]]:
    """Run a model on seeded noise, ones for other types of inputs; open dims become ``size``."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else size for d in value.shape]
        kind = onnx.TensorProto.DataType.Value(_ONNX_NAMES[value.type])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        noise = rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)
        feeds[value.name] = noise.astype(dtype)
    return list(session.run(None, feeds))


def judge(polygraphy: Path, model: Path) -> tuple[int, list[str]]:
    """Return how many tensors `polygraphy inspect sparsity` finds eligible, and which are dense.

    Its exit code is 0 whatever it finds, so its words are read. Eligible to it are float
    initializers that a Conv, Gemm or MatMul reads, whose contracted axis is a multiple of 4.

    Raises:
        RuntimeError: it failed, or says something that is not understood.
    """
    run = measure([str(polygraphy / "polygraphy"), "inspect", "sparsity", str(model)])
    eligible = re.search(r"Found: (\d+) weight tensor", run.output)
    if run.code != 0 or eligible is None:
        raise RuntimeError(f"polygraphy inspect sparsity failed on {model}:\n{run.output[-2000:]}")
    dense = re.findall(r"Found non-sparse tensor: (.+)", run.output)
    sparse = re.findall(r"Found sparse tensor: (.+)", run.output)
    if len(dense) + len(sparse) != int(eligible[1]):
        raise RuntimeError(f"polygraphy's words are not understood:\n{run.output[-2000:]}")
    return int(eligible[1]), [name.strip() for name in dense]

"""What every test relies on: nothing is downloaded, no window is opened, this Python is used, and one thread.

Models as small as those of the tests gain little from a second thread, and lose much by it where another process is
busy; the second core runs other tests (see the Makefile).
"""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # before torch is imported, here and in every kernel

import multiprocessing
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import warm

from rlhf_helpers.engine.files import ROOT
from rlhf_helpers.lesson import decoding
from rlhf_helpers.make import series

torch.set_num_threads(1)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
series.use_this_python()  # for the kernels that tests start

import matplotlib  # noqa: E402

matplotlib.use("Agg")  # here only: kernels inherit the environment and draw inline


@pytest.fixture(autouse=True)
def usual_answers(monkeypatch):
    """A test that shortens answers, as `workspace.setup` does for a slow model, does so for itself alone."""
    monkeypatch.setattr(decoding, "LONGEST", decoding.LONGEST)


@pytest.fixture
def kill_in_the_middle(tmp_path, request):
    """A function that runs `module.long_run(checkpoint, "stop")` in another process and kills it (SIGKILL) as soon
    as it says "here"; returns the path of the checkpoint that is left."""

    def kill(module, where):
        path = tmp_path / "run.pt"
        code = f"import {module}; {module}.long_run({str(path)!r}, {where!r})"
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ["PYTHONPATH"]])}
        child = subprocess.Popen(
            [sys.executable, "-c", code], cwd=request.path.parent, env=env, stdout=subprocess.PIPE, text=True
        )
        said = next((line for line in child.stdout if line == "here\n"), "nothing")
        child.send_signal(signal.SIGKILL)
        assert said == "here\n" and child.wait() == -signal.SIGKILL
        return path

    return kill


@pytest.fixture
def processes():
    """The context of `multiprocessing` whose processes start at once: a forked one need not load torch again."""
    return multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


@pytest.fixture(scope="session")
def warm_folder(tmp_path_factory):
    """A folder for JUPYTER_PATH, whose kernels start at once (tests/warm.py)."""
    folder = tmp_path_factory.mktemp("warm")
    command = [sys.executable, warm.__file__, str(folder / "door")]
    warm.kernel_spec(folder, folder / "door")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "ready\n"
        yield folder
        server.stdin.close()


@pytest.fixture
def warm_kernels(warm_folder, monkeypatch):
    """Notebooks that the test executes run in kernels that start at once."""
    monkeypatch.setenv("JUPYTER_PATH", str(warm_folder))


@pytest.fixture(scope="session")
def chromium():
    """The path of a Chromium or Chrome; without one the test is skipped, in CI it fails."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no browser on the PATH ({', '.join(names)})")
    return path

"""Kernels for tests that start at once: forked from a process in which the libraries are already loaded.

`python tests/warm.py SOCKET` loads them, says "ready" and forks a kernel for everyone who asks, until its standard
input ends.  The kernel spec that `kernel_spec` writes runs `python tests/warm.py SOCKET CONNECTION_FILE`, which asks,
stands in for the kernel (signals go through, and each ends with the other) and loads nothing itself.

The package is not loaded before the fork: each kernel imports its own.
"""

import json
import os
import signal
import socket
import sys

LIBRARIES = (
    "ipykernel.kernelapp", "ipywidgets", "matplotlib.pyplot", "nbformat", "numpy", "pandas", "torch", "transformers",
    "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama",
)  # fmt: skip


def kernel_spec(folder, where):
    """Make of `folder` one that JUPYTER_PATH may name: its kernel `python3` is forked by the server at `where`."""
    path = folder / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True)
    command = [sys.executable, "-I", "-S", __file__, str(where), "{connection_file}"]
    path.write_text(json.dumps({"argv": command, "display_name": "Python 3 (ipykernel)", "language": "python"}))


# ---------------------------------------------------------------- the one who asks


def ask(where, *arguments):
    """Have a kernel forked with this process's folder, environment and output, and wait for its end."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(where)
        wish = json.dumps(
            {"arguments": ["-f", *arguments], "folder": os.getcwd(), "environment": dict(os.environ)}
        ).encode()
        socket.send_fds(line, [b"%10d" % len(wish)], [1, 2])
        line.sendall(wish)
        pid = int(line.recv(10))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        line.recv(1)  # nothing comes but the end


# ---------------------------------------------------------------- the one who forks


def serve(where):
    """Fork kernels until standard input ends."""
    import gc
    import importlib
    import selectors

    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel sets it for itself
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever has ended is gone at once
    with socket.socket(socket.AF_UNIX) as door, selectors.DefaultSelector() as events:
        door.bind(where)
        door.listen()
        events.register(door, selectors.EVENT_READ)
        events.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while sys.stdin not in [key.fileobj for key, _ in events.select()]:
            line = door.accept()[0]
            if os.fork() == 0:
                door.close()
                events.close()
                return kernel(line)
            line.close()


def kernel(line):
    """Be the kernel that is asked for over `line`."""
    import random
    import threading

    head, output, _, _ = socket.recv_fds(line, 10, 2)
    wish = json.loads(line.recv(int(head), socket.MSG_WAITALL))
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(wish["folder"])
    os.environ.clear()
    os.environ.update({k: v for k, v in wish["environment"].items() if k != "JPY_PARENT_PID"})
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), *output)):
        os.dup2(file, number)
    random.seed()
    sys.path[:1] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.argv = ["ipykernel_launcher", *wish["arguments"]]
    line.sendall(b"%10d" % os.getpid())
    threading.Thread(target=lambda: (line.recv(1), os._exit(0)), daemon=True).start()  # whoever asked has ended
    if "WORKBOOK_TRAINED_ON" in os.environ:
        sys.path.append(os.path.dirname(__file__))
        import trained

        trained.record(os.environ["WORKBOOK_TRAINED_ON"])
        sys.path.pop()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


if __name__ == "__main__":
    (ask if len(sys.argv) > 2 else serve)(*sys.argv[1:])

"""A Python that has imported the libraries of the stages: the workflow's jobs are forked from it, in milliseconds.

Nearly all of a job of the made model is its imports, five seconds of them. `make_environment` lays out a folder like a
virtual environment's: `bin/python` is the real interpreter, which runs Snakemake; `bin/python3`, which the workflow's
shell lines call, asks the server of this file to fork. altq itself is not imported before the fork, so that a job runs
the checkout that PYTHONPATH names, as in reality. What kills jobs, or times them, uses the real interpreter throughout.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIBRARIES = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "safetensors.torch", "geoopt", "scipy.linalg",
    "pandas", "pyarrow.parquet", "matplotlib.figure", "datasets", "lm_eval.tasks", "gguf", "pydantic", "yaml", "tqdm",
)  # fmt: skip

CLIENT = """#!{python} -SEI
import json, os, signal, socket, sys
arguments = sys.argv[1:]
if arguments[:1] == ["-P"]:
    arguments = arguments[1:]
if arguments[:2] != ["-m", "altq"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps({{"argv": arguments[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
answers = server.makefile()
child = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: os.kill(child, number))
sys.exit(int(answers.readline()))
"""


def make_environment(folder: Path) -> Path:
    """Lay out the folder; the path of the interpreter that is to run Snakemake. The server listens at `folder`/server."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.symlink_to(sys.executable)
    if sys.prefix != sys.base_prefix:
        (folder / "pyvenv.cfg").write_bytes(Path(sys.prefix, "pyvenv.cfg").read_bytes())
        (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    client = folder / "bin" / "python3"
    client.write_text(CLIENT.format(python=sys.executable, address=str(folder / "server")))
    client.chmod(0o755)
    return python


def start_server(folder: Path) -> subprocess.Popen:
    """Start the server; it is ready when this returns."""
    server = subprocess.Popen([sys.executable, __file__, folder / "server"], stdin=subprocess.DEVNULL)
    while not (folder / "server").exists():
        assert server.poll() is None, "the server of preloaded Pythons did not start"
        time.sleep(0.05)
    return server


def serve(address: str) -> None:
    """Fork a child for every request, and answer with its process id and then its exit status."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    sys.path.pop(0)  # the folder of the tests
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen(16)
    os.rename(f"{address}.new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Run one request in a child, and wait for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    request = json.loads(connection.makefile("rb").read(int.from_bytes(length, "big")))
    child = os.fork()
    if child == 0:
        connection.close()
        run(files, **request)
    for file in files:
        os.close(file)
    connection.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
    os._exit(0)


def run(files: list[int], argv: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be `python -m` of `argv` in a folder and environment."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = argv
    if "--threads" in argv:
        sys.modules["torch"].set_num_threads(int(argv[argv.index("--threads") + 1]))
    code = 1
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])

"""A process of our own, told and heard in pickles: by its standard input, and by what was its standard output.

It runs `main` of one of our modules; nothing of the user's main module is imported, so `fmbench.run` needs no main guard.
When the parent dies, however it dies, the child is ended too: by `lifeline`, or because its input ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..plugins import load_plugins

START = "from fmbench.lifeline import hold_on_to; hold_on_to({parent}); from {module} import main; main()"
OWN_COMPONENTS = (
    "Components of your own belong in a file given with --plugin (plugins=…), or use one worker and one device."
)

Tell = Callable[[str, Any], None]  # a message: its kind and its content


class NotShared(UserError):
    """A job names what another process cannot know. It ends the run: that process hears nothing more."""


def environment() -> dict[str, str]:
    """What a worker process needs to be told: this package, and one thread, which makes results independent of the cores."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # read as they load
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return {**threads, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


class Child:
    """The parent's side. The first thing sent is a greeting: a mapping with the `plugins` that the child must know."""

    def __init__(self, module: str, heard: Tell):
        """Starts `main` of a module; `heard` is called, on a thread, with every message, and at its death with "died"."""
        self.heard = heard
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(parent=os.getpid(), module=module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment()},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def send(self, item: Any) -> None:
        assert self.process.stdin is not None
        try:
            content = pickle.dumps(item)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise NotShared(f"a job cannot be sent to a worker process ({error}). {OWN_COMPONENTS}") from None
        with contextlib.suppress(BrokenPipeError):  # its death is told by _listen
            self.process.stdin.write(content)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                kind, content = pickle.load(self.process.stdout)
            except (EOFError, pickle.UnpicklingError, OSError, ValueError):
                code = self.process.wait()
                self.heard("died", f"the worker process ended (exit code {code}); out of memory?")
                return
            self.heard(kind, content)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        with contextlib.suppress(OSError):  # what it had not read yet
            self.process.communicate()


def connected() -> tuple[dict[str, Any], Callable[[], Any], Tell]:
    """The child's side: the greeting, a function that waits for the next item, and one that tells the parent something."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand among the messages
    lock, inbox = threading.Lock(), queue.Queue[Any]()

    def tell(kind: str, content: Any) -> None:
        with lock:
            pickle.dump((kind, content), messages)
            messages.flush()

    def read() -> None:
        while True:
            try:
                inbox.put(pickle.load(sys.stdin.buffer))
            except (EOFError, OSError):
                os._exit(0)
            except Exception as error:
                tell("stop", f"a worker process does not know what a job names ({error}). {OWN_COMPONENTS}")
                return

    greeting = pickle.load(sys.stdin.buffer)
    load_plugins(greeting["plugins"])  # before the first job, which may name what they define
    threading.Thread(target=read, daemon=True).start()
    return greeting, inbox.get, tell


def portable(error: Exception, where: str) -> Exception:
    """The exception with its traceback as a note, or what it says where it cannot be sent."""
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"{where}:\n{''.join(traceback.format_exception(error))}")
    return sent

"""The command line: arguments, one call, results on stdout, messages on stderr, an exit code.

0 fine; 1 the data or the store is bad; 2 wrong use; 3 the machine failed us; 130 interrupted.
Each module has a group of commands: what their arguments are, and the one call that they make. What a command needs besides the
reader it imports when it runs, so that `vla-store --help` costs no more than `import vla_store`.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

from vla_store.cli.options import parse_size
from vla_store.cli.parser import in_our_words, make_parser
from vla_store.cli.printing import error_text, telling_warnings
from vla_store.errors import MachineError, VlaStoreError, machine_error

__all__ = ["error_text", "main", "parse_size"]

INTERRUPTED = 130
BUILDING = ("h5py", "zarr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code of the process."""
    parser = make_parser()
    words = in_our_words(sys.argv[1:] if argv is None else argv)
    if not words:
        print(parser.format_help(), end="", file=sys.stderr)
        return 2
    arguments = parser.parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    try:
        with telling_warnings():
            code: int = arguments.run(arguments)
            sys.stdout.flush()
    except VlaStoreError as error:
        return _fail(error)
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C need not wait for what is in hand
        print("\nvla-store: interrupted" + getattr(arguments, "resume_hint", ""), file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in BUILDING:
            raise
        failed = MachineError(
            f"`vla-store {arguments.command}` needs {error.name}, which is not installed here",
            python=f"{sys.version.split()[0]} at {sys.executable}",
            hint="install vla-store with Python 3.11 or newer: older ones can read stores, but not build them",
        )
        return _fail(failed)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of stdout left; that is its right
        return 0
    except (OSError, MemoryError) as error:
        return _fail(machine_error(error, f"running {arguments.command}"))
    return code


def _fail(error: VlaStoreError) -> int:
    print(error_text(error), file=sys.stderr)
    return error.exit_code

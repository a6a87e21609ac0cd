"""The command line: arguments, one call, results on stdout, messages on stderr, an exit code.

0 fine; 1 the data or the store is bad; 2 wrong use; 3 the machine failed us; 130 interrupted.
Each module has a group of commands: what their arguments are, and the one call that they make. What a command needs besides the
reader it imports when it runs, so that `vla-store --help` costs no more than `import vla_store`.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

from vla_store.cli.parser import in_our_words, make_parser
from vla_store.cli.printing import error_json, error_text, failure_json, say, telling_warnings, writing_results
from vla_store.errors import MachineError, VlaStoreError, machine_error, parse_size
from vla_store.progress import leave

__all__ = ["error_text", "main", "parse_size"]

INTERRUPTED = 130
BUILDING = ("h5py", "zarr", "tomllib")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code of the process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the process was started without it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    arguments, code = argparse.Namespace(command=""), 0
    try:
        try:
            words = in_our_words(sys.argv[1:] if argv is None else argv)
            parser = make_parser()
            if not words:
                say(parser.format_help().rstrip())
                return 2
            arguments = parser.parse_args(words)
            with telling_warnings():
                code = arguments.run(arguments)
        finally:  # when the process ends it is too late to say that this failed
            with writing_results():
                sys.stdout.flush()
    except VlaStoreError as error:
        return _fail(error, arguments)
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C need not wait for what is in hand
        hint = getattr(arguments, "resume_hint", "")
        if getattr(arguments, "json", False):
            say(failure_json("KeyboardInterrupt", "interrupted", INTERRUPTED, hint.removeprefix("; ")))
        else:
            say("\nvla-store: interrupted" + hint)
        return INTERRUPTED
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in BUILDING:
            raise
        failed = MachineError(
            f"`vla-store {arguments.command}` needs {error.name}, which is not installed here",
            python=f"{sys.version.split()[0]} at {sys.executable}",
            hint="install vla-store with Python 3.11 or newer: older ones can read stores, but not build them",
        )
        return _fail(failed, arguments)
    except BrokenPipeError:
        leave(sys.stdout)  # its reader left; that is his right
    except (OSError, MemoryError) as error:
        return _fail(machine_error(error, f"running {arguments.command}"), arguments)
    return code


def _fail(error: VlaStoreError, arguments: argparse.Namespace) -> int:
    say(error_json(error) if getattr(arguments, "json", False) else error_text(error))
    return error.exit_code

"""`view`: a store in the browser."""

from __future__ import annotations

import argparse
import contextlib

from vla_store.cli.options import READING, argument, command, how_to_read
from vla_store.cli.printing import print_result, tell
from vla_store.reader import open_store


@command(
    "view",
    "browse a store: find episodes, play them, see each step as a sample",
    "vla-store view libero.vla --port 8421",
    argument(
        "--port", type=int, default=None, metavar="N", help="where to serve the page; 0: a free one (default: 8421)"
    ),
    argument(
        "--host",
        default=None,
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, for this machine alone; 0.0.0.0 lets everybody who reaches it read the store)",
    ),
    READING,
)
def view(arguments: argparse.Namespace) -> int:
    from vla_store.browse.server import HOST, PORT, serve

    store = open_store(arguments.store, **how_to_read(arguments))
    port = PORT if arguments.port is None else arguments.port
    with contextlib.suppress(KeyboardInterrupt), serve(store, host=arguments.host or HOST, port=port) as serving:
        described = {"store": store.url, "url": serving.url}
        print_result(arguments, described, lambda _: f"{serving.url}  (open it in a browser; Ctrl-C ends it)")
        if not serving.is_for_this_machine:
            tell("warning", ["everybody who reaches this address can read the store"])
        serving.wait()
    return 0

"""A real S3 API on 127.0.0.1: moto's server, in a process of its own.

As a script it serves until its standard input ends, so that it does not outlive who started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

BUCKET = "robots"
KEYS = {"aws_access_key_id": "tester", "aws_secret_access_key": "secret", "region_name": "us-east-1"}


@dataclass
class S3Server:
    """An empty bucket, while it is entered."""

    endpoint: str = field(init=False, default="")

    def __enter__(self) -> S3Server:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.endpoint = json.loads(self._process.stdout.readline())["endpoint"]
        self.client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """No answer any more. May be called twice."""
        self._process.kill()
        self._process.communicate()

    @property
    def client(self) -> Any:
        """boto3's, which knows nothing of what fsspec remembers."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint, **KEYS)

    @property
    def options(self) -> dict[str, Any]:
        """What s3fs needs to find it."""
        return {
            "key": KEYS["aws_access_key_id"],
            "secret": KEYS["aws_secret_access_key"],
            "client_kwargs": {"endpoint_url": self.endpoint, "region_name": KEYS["region_name"]},
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same for programs that take it from the environment."""
        return {
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": KEYS["region_name"],
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def upload(self, folder: Path, prefix: str) -> str:
        """Puts every file of a folder there; returns the URL."""
        client = self.client
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)


def main() -> None:
    import logging

    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # moto looks whether there is an object, and then writes it: of two writers at once it would tell both that they were
    # first, which S3 never does.
    put, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_object(self: S3Response) -> Any:
        with one_at_a_time:
            return put(self)

    S3Response.put_object = put_object  # type: ignore[method-assign]
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(json.dumps({"endpoint": f"http://{host}:{port}"}), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()

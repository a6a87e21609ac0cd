"""A stand-in for object storage on 127.0.0.1: delays, caps and faults as told, at little CPU, and counted.

    python -m benchmarks.object_server FOLDER --latency-ms 20

object_server.c says what it serves. It is compiled by the machine's C compiler at its first use, into the user's cache folder, and ends
with the process that started it. The same objects are at `url` (plain HTTP) and in the bucket `bucket` of an S3 API without keys.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
BUCKET = "bucket"
FAULTS = ("503", "503-retry-after", "reset", "truncated", "wrong-range", "stall")


class NoServer(RuntimeError):
    """The server cannot be compiled or started."""


@dataclass
class ObjectServer:
    """Serves `folder` while it is entered. What is in it must not change meanwhile.

    options: latency_ms, sigma, cap_mb_s, fault_rate, faults (names joined by commas, or "all"), stall_s, seed. is_tls: at https,
    with a certificate made now, in the file `certificate`.
    """

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    is_tls: bool = False
    port: int = field(init=False, default=0)
    pid: int = field(init=False, default=0)
    certificate: Path | None = field(init=False, default=None)

    def __enter__(self) -> ObjectServer:
        self._held = contextlib.ExitStack()
        given = [f"{name}={value}" for name, value in self.options.items()]
        if self.is_tls:
            made = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="vla-store-tls-")))
            self.certificate, key = make_certificate(made)
            given += [f"cert={self.certificate}", f"key={key}"]
        self._process = subprocess.Popen(
            [compiled(is_tls=self.is_tls), str(self.folder), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline()
        if not port:
            told = self._process.communicate()[1]
            self._held.close()
            raise NoServer(told.strip())
        self.port, self.pid = int(port), self._process.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """No answer any more, also on connections that are open. May be called twice."""
        self._process.kill()
        self._process.communicate()
        self._held.close()

    @property
    def url(self) -> str:
        """Of the folder."""
        return f"{'https' if self.is_tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def s3_options(self) -> dict[str, Any]:
        """What s3fs needs to find s3://bucket/."""
        return {"anon": True, "client_kwargs": {"endpoint_url": self.url, "region_name": "us-east-1"}}

    def counters(self) -> dict[str, Any]:
        """What was asked for since the last reset: requests by kind, bytes of bodies, faults, connections, the server's CPU seconds."""
        return self._ask("/__counters")

    def reset(self) -> dict[str, Any]:
        """Count from here on; what was counted until now."""
        return self._ask("/__reset")

    def set(self, **options: Any) -> None:
        """Behave otherwise from here on, as `options` says; seed starts chance anew."""
        self._ask(f"/__set?{urllib.parse.urlencode(options)}")

    def _ask(self, path: str) -> dict[str, Any]:
        import ssl

        trust = ssl.create_default_context(cafile=str(self.certificate)) if self.is_tls else None
        with urllib.request.urlopen(self.url + path, timeout=30, context=trust) as answer:
            return dict(json.load(answer))


def compiled(*, is_tls: bool = False) -> str:
    """The path of the program, which is made where it is not there yet. Raises NoServer, with what the compiler says."""
    flags = ["-O2", "-DWITH_TLS"] if is_tls else ["-O2"]
    libraries = ["-lm", "-lssl", "-lcrypto"] if is_tls else ["-lm"]
    name = hashlib.sha256(SOURCE.read_bytes() + " ".join([*flags, *os.uname()[2:]]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla-store-benchmarks"
    program = folder / f"object_server-{name}"
    if program.exists():
        return str(program)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoServer("benchmarks/object_server.c needs a C compiler (gcc or clang), and there is none on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        command = [compiler, *flags, "-o", f"{made}/program", str(SOURCE), *libraries]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            needs = " (TLS needs the headers of OpenSSL: the package libssl-dev or openssl-devel)" if is_tls else ""
            raise NoServer(f"the compiler refuses benchmarks/object_server.c{needs}:\n{done.stderr[-2000:]}")
        os.replace(f"{made}/program", program)
    return str(program)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself and is good for a day, and its key, as PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what is served")
    parser.add_argument(
        "--latency-ms", type=float, default=0, help="before the first byte of every answer (default: 0)"
    )
    parser.add_argument(
        "--sigma", type=float, default=0, help="of a log-normal delay, whose median --latency-ms is then"
    )
    parser.add_argument(
        "--cap-mb-s", type=float, default=70, help="10^6 bytes a second and connection (default: 70; 0: none)"
    )
    parser.add_argument("--fault-rate", type=float, default=0, help="the share of requests that fail (default: 0)")
    parser.add_argument(
        "--faults", default="all", help=f"which of them, joined by commas: {', '.join(FAULTS)} (default: all)"
    )
    parser.add_argument("--stall-s", type=float, default=5, help="how long a stall lasts (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of delays and faults")
    parser.add_argument("--tls", action="store_true", help="serve https")
    options = vars(parser.parse_args())
    folder, is_tls = options.pop("folder"), options.pop("tls")
    try:
        with ObjectServer(folder, options, is_tls) as server, contextlib.suppress(KeyboardInterrupt):
            print(f"{server.url}   s3://{BUCKET}/ with {json.dumps(server.s3_options)}", flush=True)
            print(f"{server.url}/__counters   ends with Ctrl-C", flush=True)
            signal.pause()
    except NoServer as error:
        sys.exit(f"object_server: {error}")


if __name__ == "__main__":
    main()

"""moto's S3 server as a process: prints its port when it listens, ends when its standard input does.

One request is served at a time: moto looks for a key and then puts it, and a condition is worth nothing when
another request comes between.

python moto_main.py [CERTIFICATE KEY]     with both: TLS
"""

import io
import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class OneAtATime:
    """A WSGI application in front of another."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # The body is read before: a client that stalls must not hold up the others.
        environ["wsgi.input"] = io.BytesIO(
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        )
        with self._lock:
            answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


def main(arguments: list[str]) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = OneAtATime(DomainDispatcherApplication(create_backend_app))
    tls = (arguments[0], arguments[1]) if arguments else None
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=tls)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])

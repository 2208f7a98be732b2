"""moto's S3 server as a process: prints its port when it listens, ends when its standard input does.

python moto_main.py [CERTIFICATE KEY]     with both: TLS
"""

import logging
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main(arguments: list[str]) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    tls = (arguments[0], arguments[1]) if arguments else None
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=tls)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])

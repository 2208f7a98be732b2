"""The control socket between the `fusegw` commands and a running gateway.

`protocol` is the messages (no I/O), `server` runs inside the gateway under trio, `client` is blocking and is
all that the commands import.
"""

"""A gateway as a process of this host: what surrounds `fusegw.gateway.run`, and how commands find it.

- `process`: fork into the background, report readiness or the error, harden, log.
- `lock`: one holder per volume on this host.
- `mountpoint`: what the kernel has mounted, whether a directory can be mounted on, unmounting.
- `service`: the order of these around one mounted volume, and stopping it from outside.

Nothing here imports an event loop, pyfuse3 or the store: the commands use it, and it must exist before any
thread does.
"""

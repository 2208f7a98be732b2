"""The kernel's side: a thin adapter between FUSE requests and `fusegw.vfs`. Nothing else imports pyfuse3.

`operations` answers requests, `mount` puts the file system at its place and takes it away again, `nodes` and
`replies` translate identities and outcomes, `pace` saves turns of the event loop.
"""

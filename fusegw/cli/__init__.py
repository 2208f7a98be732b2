"""The `fusegw` commands: they read what the operator said, call the other layers, and print.

`main` is the entry point and the only place that turns errors into messages and exit codes; `session` is what
every command has in common; one module per group of commands, imported when it is used; `mount_helper` is
what mount(8) calls.
"""

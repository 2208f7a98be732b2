"""`fusegw completion`: the script that teaches a shell to complete commands, options and volume names."""

import click

from fusegw.cli.session import Session, common_options


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def completion(session: Session, shell: str) -> None:
    """Print a completion script.

    For bash: eval "$(fusegw completion bash)"
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    script = get_completion_class(shell)
    assert script is not None
    print(script(root, {}, "fusegw", "_FUSEGW_COMPLETE").source())

"""What the shares refuse with; the gateway turns these into its own errors."""


class ExportError(Exception):
    """Root of the errors below."""


class InvalidExport(ExportError, ValueError):
    """A share, a user or a setting that cannot be served as it is described: correct it."""


class ToolFailed(ExportError):
    """A daemon or a tool is missing, ended with an error, or took too long."""

"""Versions: of the package, of what gives numbers their meaning, of the plugin API."""

VERSION = "0.1.0"

#: Raised by every change that can move a number; records of two protocols never mix.
PROTOCOL = 1

#: What plugins and cibench promise one another, `MAJOR.MINOR`: see `plugin_api`.
PLUGIN_API = "1.0"

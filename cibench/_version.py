"""Versions: of the package, and of the protocol that gives numbers their meaning."""

VERSION = "0.1.0"

#: Raised by every change that can move a number; records of two protocols never mix.
PROTOCOL = 1

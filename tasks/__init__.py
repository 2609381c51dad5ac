"""Prefect tasks: a module directly in this package is one stage; a package inside it is a library the stages call."""

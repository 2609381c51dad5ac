"""Prefect tasks.

A module directly in this package is one stage (or serves the stages); a package inside it is a
library that the stages call.
"""

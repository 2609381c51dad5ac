"""Stages of the DAG as Prefect tasks, and what serves them.

``stages`` has one module for each box of the DAG; ``engine``, ``planning``, ``reporting`` and
``tracking`` serve stages and flows; ``corpus`` and ``tokens`` are libraries that the stages call,
without Prefect; ``config`` holds their settings.
"""

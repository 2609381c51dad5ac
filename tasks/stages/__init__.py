"""The boxes of the DAG: each module defines one stage, or one task that makes no artifact."""

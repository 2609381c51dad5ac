"""What every layer stands on: errors, the base of configs, artifacts and their store; no torch."""

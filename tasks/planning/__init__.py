"""Planning of a run before it starts: plan, estimates, budgets, ladders."""

"""What people read about a run: funnel, plots, tables, model card, progress."""

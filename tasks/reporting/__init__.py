"""Reports of runs for people: funnel, scores, plots, model card, live progress."""

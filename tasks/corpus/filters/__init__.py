"""Which documents stay, and what is edited in them: language, quality rules, personal data."""

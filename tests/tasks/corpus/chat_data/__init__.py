"""Tests of tasks.corpus.chat_data."""

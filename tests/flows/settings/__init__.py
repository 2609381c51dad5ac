"""Tests of flows.settings."""

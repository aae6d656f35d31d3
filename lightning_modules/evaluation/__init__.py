"""Evaluation: predictions of systems, their scores, tables and figures."""

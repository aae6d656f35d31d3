"""Scoring what a system makes: folders of predictions, their scores, tables, and the pictures beside them."""

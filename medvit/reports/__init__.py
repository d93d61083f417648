"""Measurements, findings and the report of a patient."""

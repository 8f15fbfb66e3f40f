"""Measures the reservation against its peers on servers of its own: ``python -m bench``."""

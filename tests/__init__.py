"""The test suite; tests/conftest.py says what its parts share."""

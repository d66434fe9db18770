"""Settings of all tests."""

from hypothesis import settings

# The same examples on every run and machine: a red run is then the change's, and is repeated by running it again.
settings.register_profile("mkd", derandomize=True, deadline=None)
settings.load_profile("mkd")

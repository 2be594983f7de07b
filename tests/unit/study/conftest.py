"""Speed is not what these tests are about: on a busy machine the first example may take a second."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

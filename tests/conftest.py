"""What holds for every test."""

from hypothesis import settings

# No deadline: the machine is shared, and how long a call takes says nothing about whether it is right.
settings.register_profile("keyshred", deadline=None)
settings.load_profile("keyshred")

"""The profile of a long run of the fuzz tests: `pytest --hypothesis-profile=hours FOLDER_OF_THIS_FILE`."""

from hypothesis import settings

settings.register_profile("hours", max_examples=1_000_000)

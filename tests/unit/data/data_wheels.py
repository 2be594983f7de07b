"""What the tests of the data layer share."""

import io
import zipfile

from clipmerge.clip import datasets

NAMES = tuple(name for group in datasets.GROUPS for name in datasets.names(group))


def wheel_bytes(members: dict[str, bytes]) -> bytes:
    """A wheel is a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()

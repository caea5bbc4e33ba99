"""A file of the user's that a run learns from, known again by its whole path and its checksum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self


@dataclass(frozen=True, kw_only=True)
class UserFile:
    """Settings of a recipe that learns from a file of the user's; stands before the other settings it goes with."""

    holds: ClassVar[str] = ""
    """What the file is to hold, for who names none."""

    file: str = ""
    """Your own file, which the recipe learns from."""
    sha256: str = ""
    """Of the file, which is refused where it is another; a run stores that of the file that it was trained on."""

    def of_run(self) -> Self:
        """These with the file's whole path and checksum, as a run stores them.

        Raises:
            DataError: It cannot be read.
        """
        from beyondprop.data.files import sha256_of

        if not self.file or self.sha256:  # a checksum that is given stays: the file has to be that one
            return self
        path = Path(self.file).resolve()
        return replace(self, file=str(path), sha256=sha256_of(path))

    @property
    def missing(self) -> str:
        """The flag that a command cannot do without."""
        return "" if self.file else "--file FILE"

    def checked_file(self) -> str:
        """The file's path.

        Raises:
            UserError: None is named, or it is not the one of the checksum: it is gone, or has changed.
        """
        from beyondprop.data.files import sha256_of
        from beyondprop.errors import UserError

        if self.missing:
            raise UserError(f"name the file by {self.missing}: {self.holds}")
        if not self.sha256:
            return self.file
        if not Path(self.file).exists():
            raise UserError(
                f"{self.file} is gone, on which the run was trained: say where it is by --file FILE, or train anew"
            )
        if (found := sha256_of(Path(self.file))) != self.sha256.lower():
            raise UserError(
                f"{self.file} is not the file that the run was trained on, or has changed since (SHA-256 "
                f"{found[:12]}…, then {self.sha256[:12]}…): name the file as it was by --file FILE, or train anew"
            )
        return self.file

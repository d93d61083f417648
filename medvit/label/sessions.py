"""Sessions of images that clients send: archives are unpacked without trust."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from monailabel.utils.sessions import SessionInfo, Sessions

from medvit.errors import StudyError
from medvit.label.errors import RequestError
from medvit.studies.dicom.archive import unzip

MAX_UPLOADED_BYTES = 4 * 2**30


class CappedSessions(Sessions):
    """As MONAI Label's, but an archive is a zip of files that stay within it and within a size."""

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Keep the files that a client has sent.

        Raises
        ------
        RequestError
            If it should be unpacked but is not a zip, or unpacks to an implausibly large size.
        """
        if not uncompress or Path(data_file).is_dir():
            return super().add_session(data_file, expiry, False, session_id)
        Path(self.store_path).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.store_path))
        try:
            unzip(Path(data_file), folder, limit=MAX_UPLOADED_BYTES)
            return super().add_session(str(folder), expiry, False, session_id)
        except StudyError as error:
            raise RequestError(f"the upload cannot be unpacked: {error.what}", 413) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

"""The API's images. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.api import ImageInfo


class ImagesApi(Caller):
    """What can be asked about images. Every call may raise CopperError."""

    def images(self) -> list[ImageInfo]:
        """The stored images."""
        return list(self.iter_images())

    def iter_images(self) -> Iterator[ImageInfo]:
        """The same one by one, asked for page by page."""
        return self._pages("ImageInfo", "/v1/images", {})

    def delete_image(self, name: str) -> None:
        """Deletes a stored image that no virtual cluster stands on."""
        self._ask("None", "DELETE", f"/v1/images/{check.an_image(name)}", keyed=True)

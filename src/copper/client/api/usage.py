"""The API's usage. Made by `python -m copper.client.generate` from docs/reference/openapi.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from copper.client import check
from copper.client.caller import Caller

if TYPE_CHECKING:
    from copper.model.usage import Usage


class UsageApi(Caller):
    """What can be asked about usage. Every call may raise CopperError."""

    def usage(
        self,
        cluster: str | None = None,
        *,
        user: str | None = None,
        begin: float | None = None,
        end: float | None = None,
        by: Literal["cluster", "user"] = "cluster",
    ) -> list[Usage]:
        """What virtual clusters or users have used."""
        answer: list[Usage] = self._ask(
            "list[Usage]",
            "GET",
            "/v1/usage",
            query={
                "cluster": check.a_cluster(cluster) if cluster is not None else None,
                "user": user,
                "begin": begin,
                "end": end,
                "by": by,
            },
        )
        return answer

    def cluster_usage(
        self, name: str, *, begin: float | None = None, end: float | None = None
    ) -> list[Usage]:
        """One entry for each owner that had a virtual cluster of this name, also when it was
        deleted."""
        answer: list[Usage] = self._ask(
            "list[Usage]",
            "GET",
            f"/v1/clusters/{check.a_cluster(name)}/usage",
            query={"begin": begin, "end": end},
        )
        return answer

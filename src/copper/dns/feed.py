"""What the controller says of names: everything once, then every change in order, for as long as this process lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from copper.client import Client
from copper.model.errors import CopperError, TooOld

log = logging.getLogger(__name__)

PATIENCE_S = 5.0  # without a word from the controller before it is asked for everything anew
AGAIN_S = (0.1, 2.0)  # between two attempts: at first, and at most

Everything = Callable[[list[dict[str, Any]], list[dict[str, Any]]], None]
Changed = Callable[[dict[str, Any]], None]


class Feed:
    """Follows a controller in a thread of its own; what it calls must be safe there.

    Names stay as they were while the controller is away.
    """

    def __init__(self, client: Client, everything: Everything, changed: Changed) -> None:
        self._client = client.raw
        self._everything, self._changed = everything, changed
        self._end = threading.Event()

    def start(self) -> None:
        """It ends with the process, or when it next has something to say after `end`."""
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def end(self) -> None:
        self._end.set()

    def _run(self) -> None:
        pause_s = AGAIN_S[0]
        away = False
        while not self._end.is_set():
            try:
                # from before the listing: what changes meanwhile comes twice, and once is enough
                with self._client.events(patience_s=PATIENCE_S) as events:
                    self._everything(list(self._client.clusters()), list(self._client.vms()))
                    if away:
                        log.info("names are followed again")
                    pause_s, away = AGAIN_S[0], False
                    for change in events:
                        if self._end.is_set():
                            return
                        self._changed(change)
            except TooOld:
                continue
            except CopperError as error:
                if not away:
                    log.warning("names are not followed: %s", error)
                away = True
            except Exception:
                log.exception("names are not followed")
            self._end.wait(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

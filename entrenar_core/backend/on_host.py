"""What backends answer that compute on the host: there is no device to measure, to wait for or to speak of."""

from __future__ import annotations


class OnHost:
    """The part of `Backend` that concerns a device, for backends without one."""

    runs_ahead = False
    takes_floats_packed = False

    def peak_device_bytes(self) -> None:
        """There is no device."""

    def free_device_bytes(self) -> None:
        """There is no device."""

    def environment(self) -> dict[str, str]:
        """There is no device."""
        return {}

    def notes(self) -> tuple[str, ...]:
        """There is one way to compute."""
        return ()

    def synchronize(self) -> None:
        """What a method returns is done."""

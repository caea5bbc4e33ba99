"""What is trained where it stands: chips, simulated ones, and whatever else takes parameters and gives a cost."""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names

if TYPE_CHECKING:
    from beyondprop.devices.defects import with_defects
    from beyondprop.devices.device import Device
    from beyondprop.devices.module import ModuleDevice
    from beyondprop.devices.remote import RemoteDevice
    from beyondprop.devices.server import DeviceServer
    from beyondprop.devices.simulated import SimulatedChip
    from beyondprop.devices.wall_clock import HARDWARE, Hardware

_HOME = {
    "Device": "device",
    "DeviceServer": "server",
    "HARDWARE": "wall_clock",
    "Hardware": "wall_clock",
    "ModuleDevice": "module",
    "RemoteDevice": "remote",
    "SimulatedChip": "simulated",
    "with_defects": "defects",
}

__all__ = [
    "HARDWARE",
    "Device",
    "DeviceServer",
    "Hardware",
    "ModuleDevice",
    "RemoteDevice",
    "SimulatedChip",
    "with_defects",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)

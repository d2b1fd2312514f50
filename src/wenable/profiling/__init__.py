"""Measures a bundle on a device, through the engine that will run it; no torch."""

from wenable.profiling.layer_times import measure_layers as measure_layers
from wenable.profiling.on_device import choose_schemes as choose_schemes
from wenable.profiling.on_device import measure_modes as measure_modes
from wenable.profiling.on_device import profile as profile
from wenable.profiling.plan import ProfilePlan as ProfilePlan

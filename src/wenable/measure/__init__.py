"""Times, meters and counts any callable on this device; knows nothing of modes."""

from wenable.measure.device import describe_device as describe_device
from wenable.measure.energy import EnergyPlan as EnergyPlan
from wenable.measure.energy import measure_energies as measure_energies
from wenable.measure.energy import record_windows as record_windows
from wenable.measure.energy_windows import EnergyReading as EnergyReading
from wenable.measure.latency import measure_latencies as measure_latencies
from wenable.measure.meter import NoMeter as NoMeter
from wenable.measure.meter_file import FileMeter as FileMeter
from wenable.measure.meter_file import join_windows as join_windows
from wenable.measure.meters import available_meters as available_meters
from wenable.measure.meters import find_meter as find_meter

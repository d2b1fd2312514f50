"""Times, meters and counts any callable on this device; knows nothing of modes."""

from wenable.measure.device import describe_device as describe_device
from wenable.measure.latency import measure_latencies as measure_latencies

"""One trained network, many operating modes: weight-enabling networks (WeNet) as software.

Verbs are functions here (`convert`, `train`, `explore`, ...); the rooms behind them are nouns
(`wenable.conversion`, `wenable.training`, ...). Names are loaded at first use, so that
`wenable.space`, `wenable.tables` and what a device needs can be imported where torch is absent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wenable.version import __version__ as __version__

if TYPE_CHECKING:
    from wenable.calibration import calibrate as calibrate
    from wenable.conversion import convert as convert
    from wenable.dynamic_network import DynamicNetwork as DynamicNetwork
    from wenable.dynamic_network import UncalibratedWarning as UncalibratedWarning
    from wenable.evaluation import evaluate as evaluate
    from wenable.exporting import export as export
    from wenable.exporting.executorch import export_executorch as export_executorch
    from wenable.extraction import extract as extract
    from wenable.methods.depth import EarlyExits as EarlyExits
    from wenable.methods.precision import SwitchablePrecision as SwitchablePrecision
    from wenable.methods.weight_enabling import WeightEnabling as WeightEnabling
    from wenable.methods.weight_enabling_with_precision import (
        WeightEnablingWithPrecision as WeightEnablingWithPrecision,
    )
    from wenable.methods.width import Slimmable as Slimmable
    from wenable.methods.width import UniversallySlimmable as UniversallySlimmable
    from wenable.saving import load as load
    from wenable.saving import save as save
    from wenable.search import explore as explore
    from wenable.space import Knob as Knob
    from wenable.space import Mode as Mode
    from wenable.space import Space as Space
    from wenable.tables import Front as Front
    from wenable.tables import Reading as Reading
    from wenable.training import TrainConfig as TrainConfig
    from wenable.training import train as train
    from wenable.training import train_incrementally as train_incrementally

_HOMES = {
    "DynamicNetwork": "wenable.dynamic_network",
    "EarlyExits": "wenable.methods.depth",
    "Front": "wenable.tables",
    "Knob": "wenable.space",
    "Mode": "wenable.space",
    "Reading": "wenable.tables",
    "Slimmable": "wenable.methods.width",
    "Space": "wenable.space",
    "SwitchablePrecision": "wenable.methods.precision",
    "TrainConfig": "wenable.training",
    "UncalibratedWarning": "wenable.dynamic_network",
    "UniversallySlimmable": "wenable.methods.width",
    "WeightEnabling": "wenable.methods.weight_enabling",
    "WeightEnablingWithPrecision": "wenable.methods.weight_enabling_with_precision",
    "calibrate": "wenable.calibration",
    "convert": "wenable.conversion",
    "evaluate": "wenable.evaluation",
    "explore": "wenable.search",
    "export": "wenable.exporting",
    "export_executorch": "wenable.exporting.executorch",
    "extract": "wenable.extraction",
    "load": "wenable.saving",
    "save": "wenable.saving",
    "train": "wenable.training",
    "train_incrementally": "wenable.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wenable' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"wenable.{name} needs {error.name}, which is not installed; to train and convert:"
            " pip install 'wenable[train]'",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])

"""One trained network, many operating modes: weight-enabling networks (WeNet) as software.

Verbs are functions here (`convert`, `train`, `explore`, ...); the rooms behind them are nouns
(`wenable.network.conversion`, `wenable.training`, ...). Names are loaded at first use, so that
`wenable.core.space`, `wenable.core.readings` and what a device needs can be imported where torch is absent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wenable.version import __version__ as __version__

if TYPE_CHECKING:
    from wenable.core.readings import Front as Front
    from wenable.core.readings import Reading as Reading
    from wenable.core.space import Knob as Knob
    from wenable.core.space import Mode as Mode
    from wenable.core.space import Space as Space
    from wenable.exporting import export as export
    from wenable.exporting.executorch import export_executorch as export_executorch
    from wenable.methods.depth import EarlyExits as EarlyExits
    from wenable.methods.image_size import ImageSize as ImageSize
    from wenable.methods.precision import SwitchablePrecision as SwitchablePrecision
    from wenable.methods.static import Static as Static
    from wenable.methods.weight_enabling import WeightEnabling as WeightEnabling
    from wenable.methods.weight_enabling_with_precision import (
        WeightEnablingWithPrecision as WeightEnablingWithPrecision,
    )
    from wenable.methods.width import Slimmable as Slimmable
    from wenable.methods.width import UniversallySlimmable as UniversallySlimmable
    from wenable.network.calibration import calibrate as calibrate
    from wenable.network.conversion import convert as convert
    from wenable.network.dynamic_network import DynamicNetwork as DynamicNetwork
    from wenable.network.dynamic_network import UncalibratedWarning as UncalibratedWarning
    from wenable.network.evaluation import evaluate as evaluate
    from wenable.network.extraction import extract as extract
    from wenable.network.gain import ConversionWarning as ConversionWarning
    from wenable.network.metrics import Metric as Metric
    from wenable.runtime.joining import join as join
    from wenable.saving.network_file import load as load
    from wenable.saving.network_file import save as save
    from wenable.search.exploring import explore as explore
    from wenable.strategies.settings import NSGA2 as NSGA2
    from wenable.strategies.settings import Greedy as Greedy
    from wenable.strategies.settings import GreedyLazy as GreedyLazy
    from wenable.strategies.settings import Knapsack as Knapsack
    from wenable.training import Sharing as Sharing
    from wenable.training import TrainConfig as TrainConfig
    from wenable.training import train as train
    from wenable.training import train_incrementally as train_incrementally

_HOMES = {
    "ConversionWarning": "wenable.network.gain",
    "DynamicNetwork": "wenable.network.dynamic_network",
    "EarlyExits": "wenable.methods.depth",
    "Front": "wenable.core.readings",
    "Greedy": "wenable.strategies.settings",
    "GreedyLazy": "wenable.strategies.settings",
    "ImageSize": "wenable.methods.image_size",
    "Knapsack": "wenable.strategies.settings",
    "Knob": "wenable.core.space",
    "Metric": "wenable.network.metrics",
    "Mode": "wenable.core.space",
    "NSGA2": "wenable.strategies.settings",
    "Reading": "wenable.core.readings",
    "Sharing": "wenable.training",
    "Slimmable": "wenable.methods.width",
    "Space": "wenable.core.space",
    "Static": "wenable.methods.static",
    "SwitchablePrecision": "wenable.methods.precision",
    "TrainConfig": "wenable.training",
    "UncalibratedWarning": "wenable.network.dynamic_network",
    "UniversallySlimmable": "wenable.methods.width",
    "WeightEnabling": "wenable.methods.weight_enabling",
    "WeightEnablingWithPrecision": "wenable.methods.weight_enabling_with_precision",
    "calibrate": "wenable.network.calibration",
    "convert": "wenable.network.conversion",
    "evaluate": "wenable.network.evaluation",
    "explore": "wenable.search.exploring",
    "export": "wenable.exporting",
    "export_executorch": "wenable.exporting.executorch",
    "extract": "wenable.network.extraction",
    "join": "wenable.runtime.joining",
    "load": "wenable.saving.network_file",
    "save": "wenable.saving.network_file",
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

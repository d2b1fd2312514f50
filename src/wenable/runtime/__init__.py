"""Runs the modes of a bundle on a device, with numpy and one engine; imports no torch.

>>> from wenable.runtime import Session
>>> Session.__name__
'Session'
"""

from wenable.runtime.bundle import Bundle as Bundle
from wenable.runtime.bundle import BundleError as BundleError
from wenable.runtime.controller import Controller as Controller
from wenable.runtime.decisions import BudgetError as BudgetError
from wenable.runtime.decisions import Decision as Decision
from wenable.runtime.device_profile import DeviceProfile as DeviceProfile
from wenable.runtime.engine import EngineError as EngineError
from wenable.runtime.images import prepare_image as prepare_image
from wenable.runtime.prepared import ClosedError as ClosedError
from wenable.runtime.session import Session as Session
from wenable.runtime.thread_pool import ThreadPool as ThreadPool

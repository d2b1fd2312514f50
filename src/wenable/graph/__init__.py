"""What follows what in a network, read from its graph and not from names."""

from wenable.graph.calls import LayerCall as LayerCall
from wenable.graph.calls import ModuleEnd as ModuleEnd
from wenable.graph.calls import Operations as Operations
from wenable.graph.calls import Product as Product
from wenable.graph.calls import TracedGraph as TracedGraph
from wenable.graph.calls import calls_by_module as calls_by_module
from wenable.graph.calls import shared_modules as shared_modules
from wenable.graph.counter import run_counted as run_counted
from wenable.graph.counter import weight_hooks as weight_hooks
from wenable.graph.examples import examples_in as examples_in
from wenable.graph.origin import Origin as Origin
from wenable.graph.origin import Slice as Slice
from wenable.graph.tracing import modules_with_effect as modules_with_effect
from wenable.graph.tracing import trace as trace

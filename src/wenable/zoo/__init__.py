"""Networks by name, what they were made for, their weights; and the reference networks."""

from wenable.zoo.made_for import MadeFor as MadeFor
from wenable.zoo.made_for import made_for as made_for
from wenable.zoo.names import Source as Source
from wenable.zoo.names import argument_for as argument_for
from wenable.zoo.names import build as build
from wenable.zoo.names import full_name as full_name
from wenable.zoo.reference import REFERENCE_NETWORKS as REFERENCE_NETWORKS
from wenable.zoo.reference import cifar_resnet20 as cifar_resnet20
from wenable.zoo.reference import digits_resnet as digits_resnet
from wenable.zoo.reference import scenes_resnet as scenes_resnet
from wenable.zoo.weights import load_weights as load_weights
from wenable.zoo.weights import read_weights as read_weights

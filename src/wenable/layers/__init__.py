"""The layers whose option can be set between forward passes."""

from wenable.layers.batch_norm import SwitchableBatchNorm as SwitchableBatchNorm
from wenable.layers.batch_norm import SwitchableBatchNorm1d as SwitchableBatchNorm1d
from wenable.layers.batch_norm import SwitchableBatchNorm2d as SwitchableBatchNorm2d
from wenable.layers.batch_norm import SwitchableBatchNormAct2d as SwitchableBatchNormAct2d
from wenable.layers.convolution import WeightEnabledConv2d as WeightEnabledConv2d
from wenable.layers.linear import WeightEnabledLinear as WeightEnabledLinear

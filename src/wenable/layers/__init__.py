"""The layers whose option can be set between forward passes."""

from wenable.layers.batch_norm import SwitchableBatchNorm as SwitchableBatchNorm
from wenable.layers.batch_norm import SwitchableBatchNorm1d as SwitchableBatchNorm1d
from wenable.layers.batch_norm import SwitchableBatchNorm2d as SwitchableBatchNorm2d
from wenable.layers.batch_norm import SwitchableBatchNormAct2d as SwitchableBatchNormAct2d
from wenable.layers.convolution import WeightEnabledConv1d as WeightEnabledConv1d
from wenable.layers.convolution import WeightEnabledConv2d as WeightEnabledConv2d
from wenable.layers.convolution import WeightEnabledConv3d as WeightEnabledConv3d
from wenable.layers.linear import WeightEnabledLinear as WeightEnabledLinear
from wenable.layers.transposed_convolution import (
    WeightEnabledConvTranspose1d as WeightEnabledConvTranspose1d,
)
from wenable.layers.transposed_convolution import (
    WeightEnabledConvTranspose2d as WeightEnabledConvTranspose2d,
)
from wenable.layers.transposed_convolution import (
    WeightEnabledConvTranspose3d as WeightEnabledConvTranspose3d,
)

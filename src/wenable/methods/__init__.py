"""One file per way to make a network dynamic: the rows of the paper's Table I."""

from wenable.methods.plan import Method as Method
from wenable.methods.weight_enabling import WeightEnabling as WeightEnabling

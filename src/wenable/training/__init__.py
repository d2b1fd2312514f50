"""Algorithm 1: training all modes of a network at once, stopped and resumed, on one process or many."""

from wenable.training.config import TrainConfig as TrainConfig
from wenable.training.incremental import train_incrementally as train_incrementally
from wenable.training.loop import Checkpoint as Checkpoint
from wenable.training.loop import StepReport as StepReport
from wenable.training.loop import train as train
from wenable.training.sampling import sample_modes as sample_modes
from wenable.training.sharing import Sharing as Sharing
from wenable.training.state import ScheduleChangeWarning as ScheduleChangeWarning
from wenable.training.step import train_step as train_step

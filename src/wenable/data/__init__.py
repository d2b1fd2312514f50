"""Data sets, split so that training, search and the final figures never mix, and batches of them."""

from wenable.data.batches import ImageBatches as ImageBatches
from wenable.data.batches import TensorBatches as TensorBatches
from wenable.data.batches import batches as batches
from wenable.data.coco import CocoImages as CocoImages
from wenable.data.coco import coco_folder as coco_folder
from wenable.data.coco import with_boxes as with_boxes
from wenable.data.digits import digits as digits
from wenable.data.image_folder import FolderSplits as FolderSplits
from wenable.data.image_folder import image_folder as image_folder
from wenable.data.scenes import Scenes as Scenes
from wenable.data.scenes import SceneSettings as SceneSettings
from wenable.data.scenes import middle_digits as middle_digits
from wenable.data.scenes import scenes as scenes
from wenable.data.splits import Splits as Splits
from wenable.data.transforms import ImageSettings as ImageSettings

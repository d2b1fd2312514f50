"""Share a network with its modes through the Hugging Face Hub, with a model card of its readings.

    python examples/share_on_the_hub.py                        # into a folder: nothing is uploaded
    python examples/share_on_the_hub.py --push OWNER/NAME      # uploads; needs `huggingface-cli login`

Needs `pip install 'wenable[hub]'`.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import wenable as we
from wenable.data import batches, digits
from wenable.saving.hub import SharedNetwork
from wenable.zoo import build


def main() -> None:
    """Train, search, save in the form of the Hub, and load it again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository")
    given = parser.parse_args()

    torch.manual_seed(0)
    splits = digits()
    # `build` notes how the network was made, so that it can be loaded by its path alone.
    model = build("wenable.zoo:digits_resnet", width=16)
    net = we.convert(model, torch.zeros(1, 1, 8, 8), method=we.WeightEnabling(groups=(1, 2, 4)))
    we.train(net, batches(splits.train, 64, shuffle_seed=0), we.TrainConfig(passes=4, epochs=2))
    search, calibration = list(batches(splits.search, 300)), list(batches(splits.train, 256))
    front = we.explore(net, search, calibration, min_accuracy=0.5)
    test = list(batches(splits.test, 250))
    tested = {mode: we.evaluate(net, mode, test, split="the test split") for mode in front.modes}
    shared = SharedNetwork(net, [front.with_tests(tested)])

    with tempfile.TemporaryDirectory() as folder:
        shared.save_pretrained(folder)
        print("written:", ", ".join(sorted(path.name for path in Path(folder).iterdir())))
        print((Path(folder) / "README.md").read_text().partition("## Use")[0])
        again = SharedNetwork.from_pretrained(folder)
    image = splits.test.tensors[0][:1]
    with net.using(front.chosen.mode), again.net.using(front.chosen.mode):
        print("the same answers:", torch.equal(net.eval()(image), again.net.eval()(image)))
    if given.push:
        print(shared.push_to_hub(given.push))


if __name__ == "__main__":
    main()

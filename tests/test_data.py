"""The splits of a data set never share an example."""

import torch

from wenable.data import batches, digits


def test_the_splits_are_apart_and_complete():
    splits = digits()
    parts = [part.tensors for part in (splits.train, splits.search, splits.test)]
    assert [len(labels) for _, labels in parts] == [997, 300, 500]
    # 1,797 images, of which a few may be equal by chance; as many distinct as in the whole set
    images = torch.cat([images for images, _ in parts]).flatten(1)
    from sklearn.datasets import load_digits

    assert len({tuple(row) for row in images.tolist()}) == len(
        {tuple(row) for row in load_digits().data.tolist()}
    )
    for _, labels in parts:
        shares = torch.bincount(labels, minlength=10) / len(labels)
        assert float((shares - 0.1).abs().max()) < 0.02
    assert abs(float(images.mean())) < 0.1
    assert abs(float(images.std()) - 1) < 0.1


def test_the_order_follows_the_seed_and_changes_each_epoch():
    data = digits().search
    first, second = (batches(data, 64, shuffle_seed=3) for _ in range(2))
    epochs = [torch.cat([labels for _, labels in first]) for _ in range(2)]
    again = torch.cat([labels for _, labels in second])
    assert torch.equal(epochs[0], again)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(epochs[0]) == 256  # the last, smaller batch is left out
    plain = torch.cat([labels for _, labels in batches(data, 64)])
    assert torch.equal(plain, data.tensors[1])

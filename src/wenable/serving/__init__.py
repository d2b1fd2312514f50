"""Answers requests over a network: a bundle on KServe's model server. Imports no torch.

What comes from KServe (`pip install 'wenable[serve]'`) is in `model.py` and `server.py`; the queue, the
batches and the deadlines are ours and need nothing but numpy.
"""

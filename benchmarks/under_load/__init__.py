"""One elastic network beside what people run today, under real loads and the same requests.

`loads.py`: processes that load the machine as a trace says. `policies.py`: what answers a request.
`serving.py`: requests that come whether the last one is done or not. `party.py`: the process in which one
bundle is held. `figures.py`: what was kept, and what an oracle would have. `verdicts.py` and
`page.py`: the page.
"""

"""A plugin of pytest: fewer random examples, for a backend that compiles kernels for each of them.

python -m pytest -p bench.gpu_examples --hypothesis-profile few
"""

import hypothesis

hypothesis.settings.register_profile("few", deadline=None, max_examples=20, derandomize=True)

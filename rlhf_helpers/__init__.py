"""The RLHF Workbook's package: what the notebooks teach, and the plumbing that they leave out of view.

The functions that a chapter shows in its cells are here too, word for word, since later chapters
import them.  Import the module that you need: `from rlhf_helpers import decoding`.
"""

__version__ = "0.1.0"

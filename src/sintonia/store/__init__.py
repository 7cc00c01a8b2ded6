"""The store: what is true about files, jobs and models, and the bytes of files.

Callers use ``Store``; the worker also uses its ``queue`` with the types of ``claims``.
"""

from sintonia.store.claims import Claim, ClaimLost, Stage
from sintonia.store.home import Store
from sintonia.store.paging import Page

__all__ = ["Claim", "ClaimLost", "Page", "Stage", "Store"]

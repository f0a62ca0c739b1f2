"""Content addresses: CIDs, canonical DAG-CBOR, who may read what, and identifiers."""

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.content.identifiers import check_id, is_id, new_id
from neuronexus_kernel.content.visibility import Visibility

__all__ = ["CID", "Visibility", "check_id", "is_id", "new_id"]

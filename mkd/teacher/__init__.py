"""Teachers: what labels weak views."""

import os

# A service answers each call in a thread of its own, and what such threads leave behind stays with Arrow's default
# allocator: its memory grew by the number of calls. The variable is read when pyarrow is imported.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

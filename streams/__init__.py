"""The Faust application: one small file for each agent, each a host of folds and handlers from ``esper``.

``streams.host.safe`` holds all that Faust needs to keep what we promise; nothing else here works around it.
"""

from esper.extras import require

require("workers")

"""The report: runs as one page of HTML that needs nothing else.

``gather`` asks the database, ``story`` makes of the rows what the page tells, and ``page`` writes it. Only ``gather``
touches the database, so the rest can be fed by hand.
"""

"""Share tasks out to many processes, on this machine or on many.

``pool`` decides who does what and what happens when a worker dies; it knows no cluster. ``on_ray`` starts and asks
workers on Ray, ``member`` is what runs in each of Ray's processes. A task is anything that can be pickled; a worker is
made on its machine by a picklable function that returns a :class:`~.pool.Craft`.
"""

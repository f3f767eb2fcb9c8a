"""Problems that prevent a deploy: the checks of preflight, grouped by subject.

``host`` the machine, ``wallet`` keys and credentials, ``circuits`` what is proved, ``storage`` disks and the RAM disk,
``settings`` the inventory itself, ``fleet`` all hosts together. Each takes what was read from the host and the
inventory's values, and returns a list of problems, each with what to do about it. They run on the control node,
where the operator's own files (hotkey, circuits, SRS) are read before anything is copied. They change nothing and never
put a file's content into a message.

Not Ansible plugins: ``plugins/action/omron_preflight.py`` calls them.
"""

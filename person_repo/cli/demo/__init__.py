"""``person-repo demo``: the command, and the story that it shows."""

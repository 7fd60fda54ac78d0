"""``person-repo torture``: processes that read and write while servers fail, and the check of what they saw."""

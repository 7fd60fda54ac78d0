"""``person-repo import`` and ``export``: people from and to files.

``importing`` has the plot of an import. ``lines`` cuts the file into rows, ``checking`` finds what is wrong with each,
``spool`` keeps the rows until all are checked and finds the ids that occur twice, ``problems`` is the error with all
reasons. ``exporting`` writes a file, ``format`` the bytes in it. ``commands`` is the command line of both.
"""

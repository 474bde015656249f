"""What every room needs: errors, files, paths, the machine, processes that share work, quantities with units."""

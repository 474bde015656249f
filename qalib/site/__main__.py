"""`python -m qalib.site [FOLDER]` writes the site."""

import sys

from qalib.site.build import make

print(make(*sys.argv[1:2]) / "index.html")

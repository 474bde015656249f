"""`python -m qalib.site [FOLDER]` writes the site."""

import sys

from qalib.site.build import make
from qalib.utils.output import escape_unencodable

escape_unencodable()
print(make(*sys.argv[1:2]) / "index.html")

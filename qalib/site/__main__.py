"""`python -m qalib.site [FOLDER]` writes the site."""

import sys

from qalib.site.build import make
from qalib.utils.output import escape_unencodable

escape_unencodable()
print((make(sys.argv[1]) if sys.argv[1:] else make()) / "index.html")

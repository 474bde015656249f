"""`python -m qalib.teaching.exercises [FOLDER] [--nbgrader]` writes the students' notebooks."""

import sys

from qalib.teaching.exercises.notebooks import write
from qalib.utils.output import escape_unencodable

escape_unencodable()
folders = [argument for argument in sys.argv[1:] if argument != "--nbgrader"]
for path in write(folders[0] if folders else "exercises", nbgrader="--nbgrader" in sys.argv):
    print(path)

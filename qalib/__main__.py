"""`python -m qalib`: the command line.

Started several times, on one machine or many, by `accelerate launch -m qalib evaluate` on GPUs or `torchrun -m qalib
evaluate` anywhere, the processes share the questions. (On CPUs accelerate starts one process, unless with mpirun.)
"""

from qalib.cli.commands import main

main()
